"""The protocol as a small model, and an exhaustive search for a way to break its promises.

state       what etcd, the nodes and the auth replicas hold, as plain tuples
rules       every choice of the protocol that can be got wrong, each with its right answer
actions/    the steps that change a state, one room per part of the code whose steps they are
invariants  the promises, as questions about one state
worlds      which parts are there, how large, and with how many faults
search      breadth first over all states; the shortest way to a broken promise
variants    protocols with one rule broken, each of which must be caught

`python -m model` runs all of it. It imports nothing of the product: what it checks are the ideas, and each action names
the module whose step it is.
"""
