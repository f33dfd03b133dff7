"""The test bed: a mesh of real processes, a network and processes that fail, and a checker of the promises.

plan           which faults happen and when, drawn from a seed; `shapes` draws the world, `replay` saves both
system/        the mesh under test: etcd's members, replicas of the auth service, nodes, and the network between them
entry/         the programs of these processes
faults/        the kinds of faults, one module for each family
clients/       sign in, call, stream, refresh, revoke, rotate and forge, and log every answer
operation_log  the log of operations: what was asked and answered, when and by which client
observer       logs what happens in etcd
run            carries out a plan on a world
checker/       decides by the operation log alone whether the promises I1 to I7 were kept
mutations      bugs that are injected to show that the checker finds them
"""
