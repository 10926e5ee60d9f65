"""The page in a browser: what the command line does, to click. It decides nothing of its own.

In reading order:

    request    what a person has filled in, as the words of a command line
    jobs       command lines in a queue, each a process of its own that can be stopped and resumed
    files      what the page may read and write: uploads and the folder of runs, nothing else
    known      what each prior knows, to complete and to read
    doing      what the buttons do, and what is shown of a run
    page       the page itself (Gradio)
    guard      who may come in, and with what
    serve      the server around it, and the reports of runs

A run that the page starts is `csd3d ...` in the same folder as any other: it is listed, resumed and undone there too,
and it outlives the page.
"""
