"""Ranks: how they are started and stopped, where each finds its place, and what they say to each other."""
