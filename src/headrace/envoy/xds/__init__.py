"""Discovery: serves `ResourceSet`s to Envoys. Sees types, names, bytes and versions, never what they mean."""
