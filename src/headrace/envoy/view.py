"""What one proxy may see of the mesh: a shared scope and its own instance. Translation gets nothing else."""
