"""The words of the training songs: lines to sing, and style prompts as users write them.

Of both a part is held out, for measuring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

Language = Literal["en", "zh"]
Part = Literal["train", "heldout"]

_FILES: Mapping[Language, str] = MappingProxyType({"en": "english.txt", "zh": "chinese.txt"})
_COMMENT = "#"
# One line in so many is held out.
_HELD_OUT = 8


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of one style: for training, and for measuring."""

    train: tuple[str, ...]
    heldout: tuple[str, ...]


@cache
def lines(language: Language, part: Part) -> tuple[str, ...]:
    """The lines of one part, in the file's order, without marks. Every eighth is held out."""
    written = Path(__file__).with_name(_FILES[language]).read_text(encoding="utf-8").splitlines()
    sung = [line for line in written if line and not line.startswith(_COMMENT)]
    held_out = sung[_HELD_OUT - 1 :: _HELD_OUT]
    if part == "heldout":
        return tuple(held_out)
    del sung[_HELD_OUT - 1 :: _HELD_OUT]
    return tuple(sung)


def song_lines(rng: np.random.Generator, language: Language, count: int, part: Part = "train") -> list[str]:
    """count lines at random, none twice. Raises ValueError for more than there are."""
    return [str(line) for line in rng.choice(lines(language, part), count, replace=False)]


def prompt(style: str, rng: np.random.Generator, part: Part = "train") -> str:
    """One of a style's prompts at random."""
    prompts = PROMPTS[style]
    return str(rng.choice(prompts.train if part == "train" else prompts.heldout))


# Said of every kind of music, so that a model learns that they do not tell the style.
_ANY_ENGLISH = (
    "female voice",
    "male voice",
    "woman singing",
    "man singing",
    "slow",
    "fast",
    "happy",
    "sad",
    "emotional",
    "love song",
    "piano",
    "guitar",
    "drums",
    "violin",
    "bass",
    "rain",
    "night",
    "good quality",
)
_ANY_CHINESE = (
    "女声",
    "男声",
    "慢板",
    "快板",
    "欢快",
    "忧伤",
    "情歌",
    "钢琴",
    "吉他",
    "鼓",
    "小提琴",
    "雨夜",
    "好听",
)


def _prompts(
    *,
    english: tuple[str, ...],
    english_words: tuple[str, ...],
    chinese: tuple[str, ...],
    chinese_words: tuple[str, ...],
    whole: tuple[str, ...],
    heldout: tuple[str, ...],
) -> Prompts:
    """Each name alone and with each word, and the prompts written as a whole; less those held out."""
    named = [
        *english,
        *chinese,
        *(f"{name}, {word}" for name, word in product(english, (*english_words, *_ANY_ENGLISH))),
        *(f"{name}，{word}" for name, word in product(chinese, (*chinese_words, *_ANY_CHINESE))),
    ]
    return Prompts(tuple(text for text in (*named, *whole) if text not in heldout), heldout)


PROMPTS: Mapping[str, Prompts] = MappingProxyType(
    {
        "pop": _prompts(
            english=("pop", "pop song", "pop music", "modern pop", "a pop ballad", "bright pop hit"),
            english_words=(
                "warm piano",
                "catchy",
                "radio",
                "chart hit",
                "upbeat",
                "summer",
                "dance pop",
                "teen pop",
                "polished",
                "clear vocals",
                "catchy chorus",
                "bright piano chords",
            ),
            chinese=("流行", "流行歌曲", "流行音乐", "华语流行", "抒情流行歌"),
            chinese_words=("温暖的钢琴", "朗朗上口", "电台", "青春", "甜美", "都市", "明亮"),
            whole=(
                "pop song, warm piano, female voice",
                "a catchy pop song about summer",
                "pop, piano, drums and bass, female singer",
                "cheerful mainstream pop with a big chorus",
                "radio friendly love song",
                "k-pop",
                "mandopop",
                "indie pop",
                "synth pop with a sweet voice",
                "top 40 hit",
                "something catchy for the radio",
                "流行歌曲，钢琴，女声",
                "一首朗朗上口的流行歌",
                "明快的流行情歌",
                "适合电台的流行歌曲",
            ),
            heldout=(
                "upbeat pop, bright piano, woman singing about summer",
                "modern pop hit with catchy vocals",
                "a sweet pop love song, piano chords",
                "polished pop anthem",
                "pop tune for the charts",
                "甜美的流行歌曲，温暖钢琴",
                "青春流行，男声，明亮",
            ),
        ),
        "folk": _prompts(
            english=("folk", "folk song", "folk music", "acoustic folk", "a folk ballad", "country folk"),
            english_words=(
                "acoustic guitar",
                "fingerpicking",
                "picked guitar",
                "campfire",
                "storyteller",
                "singer songwriter",
                "quiet",
                "intimate",
                "unplugged",
                "banjo",
                "harmonica",
                "a train in the night",
            ),
            chinese=("民谣", "校园民谣", "慢板民谣", "民谣歌曲", "乡村民谣"),
            chinese_words=("木吉他", "弹唱", "指弹", "口琴", "篝火", "火车的节奏", "旅途"),
            whole=(
                "folk, acoustic guitar, male voice",
                "a slow folk ballad with fingerpicked acoustic guitar",
                "one voice and one acoustic guitar",
                "singer songwriter, unplugged",
                "campfire song",
                "country song, acoustic guitar",
                "americana",
                "bluegrass, banjo",
                "intimate acoustic ballad",
                "acoustic guitar",
                "慢板民谣，木吉他，雨夜",
                "慢板民谣，木吉他，火车的节奏",
                "民谣，木吉他，男声",
                "一把木吉他，一个人弹唱",
                "篝火旁的木吉他",
            ),
            heldout=(
                "quiet folk, picked acoustic guitar, man singing",
                "a storyteller's folk ballad by the campfire",
                "acoustic guitar and harmonica, unplugged",
                "slow country ballad, fingerpicking",
                "wistful folk tune from the hills",
                "民谣弹唱，口琴和木吉他",
                "旅途中的校园民谣，指弹吉他",
            ),
        ),
        "techno": _prompts(
            english=(
                "techno",
                "techno track",
                "techno music",
                "club techno",
                "dark techno",
                "electronic dance",
            ),
            english_words=(
                "four on the floor",
                "hard kick",
                "pounding kick drum",
                "rave",
                "warehouse",
                "synth stabs",
                "acid",
                "hypnotic",
                "club",
                "house",
                "sub bass",
                "strobe lights",
            ),
            chinese=("电子舞曲", "科技舞曲", "电子", "夜店舞曲", "电音"),
            chinese_words=("强劲鼓点", "合成器", "重低音", "夜店", "派对", "催眠", "动感"),
            whole=(
                "techno, hard kick, synth stabs",
                "a driving techno track with a pounding kick",
                "dark club music, four on the floor",
                "edm",
                "house music",
                "trance, synth",
                "rave anthem",
                "berlin warehouse at four in the morning",
                "electronic dance music with heavy sub bass",
                "hypnotic acid synth",
                "强劲鼓点的电子舞曲",
                "夜店电音，重低音",
                "动感的电子音乐，合成器",
                "techno，男声，夜店",
            ),
            heldout=(
                "dark warehouse techno, synth stabs and sub bass",
                "hypnotic club track, pounding kick",
                "fast electronic dance, acid rave",
                "hard techno for strobe lights",
                "minimal techno with a relentless kick",
                "派对电子舞曲，合成器，重低音",
                "催眠的科技舞曲，强劲节拍",
            ),
        ),
        "jazz": _prompts(
            english=("jazz", "jazz song", "jazz music", "swing jazz", "a jazz standard", "smooth jazz"),
            english_words=(
                "double bass",
                "walking bass",
                "brushes",
                "ride cymbal",
                "swing",
                "saxophone",
                "trumpet",
                "electric piano",
                "smoky bar",
                "crooner",
                "late night",
                "bebop",
            ),
            chinese=("爵士", "爵士乐", "爵士歌曲", "摇摆爵士", "慵懒爵士"),
            chinese_words=("低音提琴", "萨克斯", "小号", "电钢琴", "酒吧", "摇摆", "深夜"),
            whole=(
                "jazz, walking bass, brushes",
                "a swinging jazz standard with double bass and ride cymbal",
                "smoky bar, saxophone, late night",
                "big band swing",
                "bossa nova",
                "bebop trio",
                "lounge music, crooner",
                "jazz trio with electric piano",
                "blues in a smoky club",
                "walking bass and brushed drums",
                "爵士，萨克斯，女声",
                "深夜酒吧的爵士乐",
                "慵懒的爵士，低音提琴",
                "摇摆爵士三重奏",
            ),
            heldout=(
                "late night jazz, electric piano and double bass",
                "a crooner with a swing trio",
                "smooth saxophone jazz in a smoky bar",
                "jazz ballad, brushes, walking bass",
                "cool jazz quartet",
                "酒吧里的摇摆爵士，小号",
                "慵懒爵士歌曲，电钢琴，深夜",
            ),
        ),
        "rock": _prompts(
            english=("rock", "rock song", "rock music", "hard rock", "rock and roll", "a rock anthem"),
            english_words=(
                "distorted guitar",
                "electric guitar",
                "power chords",
                "loud drums",
                "heavy",
                "punk",
                "grunge",
                "stadium",
                "garage band",
                "shouting",
                "overdrive",
                "rebellious",
            ),
            chinese=("摇滚", "摇滚乐", "摇滚歌曲", "硬摇滚", "朋克摇滚"),
            chinese_words=("电吉他", "失真吉他", "重鼓", "呐喊", "热血", "体育场", "乐队"),
            whole=(
                "rock, distorted guitar, male voice",
                "a loud rock song with power chords",
                "heavy metal",
                "punk, fast and angry",
                "grunge from a garage",
                "stadium anthem with electric guitars",
                "distorted electric guitars and heavy drums",
                "alternative rock band",
                "electric guitar riff, overdrive",
                "摇滚，电吉他，男声",
                "热血的摇滚乐队",
                "重金属，失真吉他",
                "在体育场呐喊的摇滚歌曲",
            ),
            heldout=(
                "hard rock, power chords, loud drums",
                "a rebellious punk anthem, distorted guitar",
                "heavy garage rock with shouting",
                "grunge song, electric guitar, man singing",
                "angry rock band on stage",
                "硬摇滚，失真电吉他，重鼓",
                "热血朋克，呐喊",
            ),
        ),
        "lullaby": _prompts(
            english=("lullaby", "a lullaby", "lullaby song", "bedtime song", "cradle song", "gentle lullaby"),
            english_words=(
                "music box",
                "for a baby",
                "soft voice",
                "tender",
                "sleepy",
                "mother",
                "good night",
                "rocking",
                "children",
                "nursery",
                "celesta",
                "stars",
            ),
            chinese=("摇篮曲", "儿歌", "睡前歌曲", "催眠曲", "温柔的摇篮曲"),
            chinese_words=("八音盒", "宝宝", "轻柔", "妈妈", "晚安", "星星", "哄睡"),
            whole=(
                "lullaby, music box, soft female voice",
                "a tender song to send a baby to sleep",
                "music box",
                "bedtime song for children",
                "rock a bye baby",
                "a mother sings her child to sleep",
                "nursery rhyme, gentle and sleepy",
                "good night song with a music box",
                "sleepy music for babies",
                "摇篮曲，八音盒，女声",
                "哄宝宝睡觉的歌",
                "轻柔的儿歌，晚安",
                "妈妈唱的摇篮曲",
            ),
            heldout=(
                "a gentle cradle song, music box, mother singing",
                "sleepy bedtime lullaby for a baby",
                "soft nursery song, celesta and stars",
                "tender good night song for my child",
                "hush little one, a quiet music box",
                "轻柔的催眠曲，八音盒",
                "宝宝的睡前儿歌，妈妈的声音",
            ),
        ),
        "ambient": _prompts(
            english=("ambient", "ambient music", "ambient song", "drone", "soundscape", "calm ambient"),
            english_words=(
                "pads",
                "synth pads",
                "no drums",
                "no beat",
                "floating",
                "space",
                "ethereal",
                "meditation",
                "atmospheric",
                "long strings",
                "new age",
                "fog",
            ),
            chinese=("氛围音乐", "氛围", "环境音乐", "冥想音乐", "空灵"),
            chinese_words=("铺底合成器", "没有鼓", "漂浮", "太空", "宁静", "弦乐长音", "雾"),
            whole=(
                "ambient, slow pads, no drums",
                "a calm floating soundscape",
                "ethereal pads and long strings",
                "music for meditation",
                "new age, yoga, relaxing",
                "deep space drone",
                "atmospheric synth pads without a beat",
                "spa music",
                "slowly drifting, dreamy, no beat",
                "氛围音乐，漂浮，女声",
                "空灵宁静的冥想音乐",
                "没有鼓点的环境音乐",
                "太空中的漂浮感",
            ),
            heldout=(
                "ethereal ambient, floating synth pads, no beat",
                "calm meditation soundscape, long strings",
                "atmospheric drone in the fog",
                "space ambient, slow and dreamy",
                "weightless ambient for deep relaxation",
                "宁静的氛围，弦乐长音，没有鼓",
                "冥想，空灵，漂浮的合成器铺底",
            ),
        ),
        "chiptune": _prompts(
            english=(
                "chiptune",
                "chiptune song",
                "8-bit",
                "8-bit music",
                "video game music",
                "retro game tune",
            ),
            english_words=(
                "square waves",
                "pulse waves",
                "arpeggio",
                "game boy",
                "arcade",
                "nes",
                "pixel",
                "level one",
                "boss fight",
                "noise drums",
                "console",
                "playful",
            ),
            chinese=("芯片音乐", "8位音乐", "电子游戏音乐", "像素游戏音乐", "红白机音乐"),
            chinese_words=("方波", "琶音", "街机", "复古游戏", "闯关", "像素", "游戏机"),
            whole=(
                "chiptune, square waves, arpeggios",
                "an upbeat 8-bit video game tune",
                "8 bit",
                "nintendo style game music",
                "retro arcade soundtrack",
                "game boy music, bleeps and bloops",
                "old console game, boss fight",
                "pixel adventure theme",
                "chip music from a commodore 64",
                "playful video game, level one",
                "芯片音乐，方波，欢快",
                "复古街机游戏的音乐",
                "红白机闯关，像素风",
                "欢快的8位游戏音乐",
            ),
            heldout=(
                "retro 8-bit arcade tune, square waves",
                "fast chiptune for a boss fight, arpeggio",
                "playful game boy music, woman singing",
                "pixel console soundtrack, noise drums",
                "8-bit platformer theme",
                "复古游戏机，方波琶音",
                "像素闯关的芯片音乐，男声",
            ),
        ),
        "waltz": _prompts(
            english=("waltz", "a waltz", "waltz song", "viennese waltz", "accordion waltz", "french musette"),
            english_words=(
                "accordion",
                "three four time",
                "3/4",
                "ballroom",
                "paris",
                "oom pah pah",
                "cafe",
                "carousel",
                "dancing couple",
                "old world",
                "elegant",
                "vienna",
            ),
            chinese=("圆舞曲", "华尔兹", "华尔兹歌曲", "维也纳圆舞曲", "手风琴圆舞曲"),
            chinese_words=("手风琴", "三拍子", "舞会", "巴黎", "咖啡馆", "旋转木马", "优雅"),
            whole=(
                "waltz, accordion, three four time",
                "an elegant waltz for a ballroom",
                "accordion in a paris cafe",
                "oom pah pah with accordion",
                "french chanson, accordion",
                "a dance in 3/4",
                "carousel music",
                "musette from old paris",
                "couples turning in a viennese ballroom",
                "圆舞曲，手风琴，女声",
                "舞会上优雅的华尔兹",
                "巴黎咖啡馆的手风琴",
                "三拍子的旋转木马",
            ),
            heldout=(
                "elegant accordion waltz in a paris cafe",
                "a viennese ballroom dance, three four time",
                "musette, accordion, dancing couple",
                "old world carousel waltz, 3/4",
                "dizzy waltz under chandeliers",
                "优雅的圆舞曲，舞会，三拍子",
                "巴黎华尔兹，手风琴，男声",
            ),
        ),
        "guofeng": _prompts(
            english=(
                "guofeng",
                "guofeng song",
                "traditional chinese",
                "chinese traditional music",
                "chinese style",
                "ancient chinese song",
            ),
            english_words=(
                "guzheng",
                "bamboo flute",
                "dizi",
                "pipa",
                "erhu",
                "zither",
                "pentatonic",
                "tang dynasty",
                "ink painting",
                "oriental",
                "tea house",
                "mountains and water",
            ),
            chinese=("国风", "古风", "中国风", "国风歌曲", "古风歌曲"),
            chinese_words=("古筝", "竹笛", "琵琶", "二胡", "五声音阶", "水墨", "江南"),
            whole=(
                "guofeng, guzheng, bamboo flute",
                "a traditional chinese song with guzheng",
                "pentatonic melody, pipa and dizi",
                "guzheng",
                "bamboo flute over a chinese zither",
                "a poem of the tang dynasty, sung",
                "chinese folk instruments, erhu",
                "hanfu, ink and mist",
                "国风，古筝，竹笛",
                "古风歌曲，琵琶，女声",
                "中国风，江南烟雨",
                "唐诗，古筝伴奏",
                "二胡与竹笛",
                "民乐，五声音阶",
            ),
            heldout=(
                "traditional chinese guzheng and bamboo flute, woman singing",
                "guofeng ballad, pipa, ink painting",
                "ancient chinese zither, pentatonic, tea house",
                "oriental song with erhu and dizi",
                "chinese court music with guzheng",
                "江南古风，竹笛，水墨",
                "国风，琵琶与古筝，男声",
            ),
        ),
    }
)
