"""The page: papers in, found, shown with their evidence. No torch here, and no paper's code."""
