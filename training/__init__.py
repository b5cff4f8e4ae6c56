"""The program that makes, trains, measures and packs the demo model; not needed to make songs."""
