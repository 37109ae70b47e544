"""Mail: who wants which letters, what they hold, and how they get there."""
