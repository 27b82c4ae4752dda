"""Reads of the data until the answer is right, beside scikit-learn and plain EM.

``python -m benchmarks.reads [--cells PATTERN] [--ways PATTERN] [--again] [--threads 2]
[--restarts 10] [--small] [--save]``

:func:`benchmarks.reads.cells.suite` lists what is fitted, :data:`benchmarks.reads.ways.WAYS` how.
An answer is right to within some nats per row of the best log-likelihood that is known: the highest
of all fits to the same rows, each continued by accelerated EM until less than 1e-7 remains to gain.
Collapsed components do not count: they are skipped, and the others scored without them.

What counts are reads up to the one that evaluated such parameters, that one included, and before
it the sample of rows and steps that were taken back; a read of some of the data counts as that
part. scikit-learn's k-means counts as one read for each centre that it seeds and for each of
Lloyd's iterations. Its restarts are its own ``KMeans``, then this package's plain EM from the
clusters: the iterates are its own to nine digits, hours sooner. Wall time is that of its own whole
fit with all defaults, and of ours, one after the other on the same rows in memory; a fit of its
that takes more than 25 times as long as ours is given up.

What has been found is kept in ``results/reads.json``, way by way, so that a run continues where it
was interrupted; ``--again`` finds it anew. Targets are about cells with 2,000 rows or more for each
free parameter.
"""
