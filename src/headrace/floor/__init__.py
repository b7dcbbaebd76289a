"""The ground floor: domain-free tools that every room may use. Nothing here knows what a mesh is."""
