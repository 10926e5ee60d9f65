"""Measuring an edited clip, panorama, picture or folder of renders against its source, without the truth.

    definitions  what each number is, with its papers
    frames       sources and results as frames of one size, read piece by piece
    cases        what is compared with what: by hand, from runs; layouts: from a benchmark's folders
    spreadsheet  a sheet as rows
    towers/      the networks that learned metrics look through; each is optional and none is fetched unasked
    meters       one metric or a few, fed chunk by chunk
    measure      one pass over a source and all of its results
    table        one row a method: markdown, CSV, JSON

The formulas are in `csd3d.metrics`. Memory is bounded by the frames of a chunk, however long the clip.
"""

from csd3d.evaluate.cases import Case as Case
from csd3d.evaluate.cases import case_of_run as case_of_run
from csd3d.evaluate.config import EvaluateConfig as EvaluateConfig
from csd3d.evaluate.job import evaluate as evaluate
from csd3d.evaluate.table import Table as Table
