"""The program that makes, trains, measures and packs the demo model. Nothing of it is needed to make songs."""
