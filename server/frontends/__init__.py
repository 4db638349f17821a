"""Several processes receive, decode and encode; one owns devices, queue and admission.

The **engine process** is the one that is started and gets the signals. It starts the **front ends**, which share the
ports. A request's life is in the engine process, and is the very pipeline of a single process; its upload, pixels and
answer stay in the front end that received it, and what the network sees and gives crosses in shared memory.
"""
