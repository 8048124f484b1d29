"""From image folders to a manifest, splits and cached pixels: everything that happens before a network sees a cell."""
