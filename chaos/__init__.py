"""The test bed: a whole mesh of real processes, a hostile network and bad days, and a checker of what was promised.

plan      what goes wrong and when, drawn from a seed; `shapes` draws the world for it, `replaying` saves both
world     the processes: etcd's members, replicas of the auth service, nodes, and the network between them
faults    what can go wrong, one room each
clients   sign in, call, stream, refresh, revoke, rotate and forge, and write down what was answered
history   what was asked, answered, when and by whom: the only thing that the checker reads
checker   decides by the history whether the promises of the design (I1 to I7) were kept
planted   bugs that are put in on purpose, so that it shows that the checker is not blind
"""
