"""Statistics of what was found: arrays alone, no model and no tensor."""
