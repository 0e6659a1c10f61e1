"""What sections of a report are made of: tables, charts, images with a slider, mosaics. They know of no run."""
