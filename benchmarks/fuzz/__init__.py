"""Model files, checkpoints and unfinished outputs with wrong content.

``python -m benchmarks.fuzz [--models 5000] [--checkpoints 2000] [--outputs 1000] [--small]
[--only models] [--seed 0] [--save]``

Each trial changes the content of a valid file, and uses it: a header, an array, a member of the
archive, a line of a journal or a byte. The file has to be refused by an error of streamgmm, or to
give the same answer as the original. Trials run in processes of their own, which are watched for
crashes, memory and files that they write outside.
"""
