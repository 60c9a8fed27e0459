"""The commands `dmgan-generate` and `dmgan-doctor`, and what every command of dmgan shares."""
