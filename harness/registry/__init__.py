"""Names, and the plugins that give them a meaning."""
