"""Finding the loss of a part of etcd's history, recovering from it, and vouching that nothing is lost."""
