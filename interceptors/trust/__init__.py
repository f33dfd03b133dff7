"""What a node verifies with: keys, epochs, and the continuity of the etcd that they come from."""
