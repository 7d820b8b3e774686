"""What the exported checkpoint does, measured in the frames that it makes: see `tools.pocket.evaluate`."""
