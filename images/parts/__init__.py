"""The parts of `images/build`: packages in, a file tree, then the two ways to boot it."""
