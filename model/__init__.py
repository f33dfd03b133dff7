"""The protocol as a small model, and an exhaustive search for a way to break its promises.

state       what etcd, the nodes and the auth replicas hold, as plain tuples
rules       every choice of the protocol that can be made wrongly, each with its right answer
world       the types: a world (parts, size, number of faults), an action, an invariant
actions/    the steps that change a state, one module for each part of the code that they model
invariants  the promises, as conditions on one state
worlds      the worlds that are searched
search      breadth first over all states; finds the shortest path to a broken promise
variants    protocols with one rule broken, each of which must be caught

`python -m model` runs all of it. The model imports nothing of the product: it checks the protocol, and each action
names the function that carries the same step out.
"""
