"""What the mesh knows of model servers; here the servers that come with Headrace. Called by `app`."""
