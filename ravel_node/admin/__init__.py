"""The cluster admin's state and decisions: who is where, which cluster a server joins, which cluster owns which slots.

The admin group is a Raft cluster whose machine also keeps the directory. Imports neither grpc nor lmdb.
"""
