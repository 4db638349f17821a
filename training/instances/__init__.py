"""RefineMask's mask head, trained: masks of 112 pixels of what a box is around, on procedural photographs."""
