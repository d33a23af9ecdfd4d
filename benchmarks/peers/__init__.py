"""The comparison with what a user would pick instead: ``python -m edgewise.benchmarks.peers --help``.

Same weights, same tokens, same threads; every cell (system, workload, threads, batch, beam) in processes of its own;
rounds over all cells, so that a slow minute of the machine hits every system; what was lost is printed beside what was
won. In reading order:

=====================  =================================================================================
``workloads.py``       what is asked: S1, random weights of a usual size; S2, the shipped translator; S3, SmolLM2;
                       S4, MiniLM
``systems.py``         the systems that translate, their environments and settings
``generators.py``      those that continue prompts
``embedders.py``       those that make vectors; ``catalogue.py``, who belongs to which workload
``cell.py``            what one measuring process is told, does and answers
``adapters/``          one file a system: tokens in, tokens out
``requirements/``      their libraries, pinned, one environment a file
``random_network.py``  the weights of S1, as a checkpoint folder
``marian.py``          a checkpoint as a Hugging Face Marian folder; ``convert_ctranslate2.py``, as CTranslate2's
``prepare.py``         everything that is made once: sources, reference tokens, the models in every format
``prepare_text.py``    the same for S3; ``llama_folder.py`` and ``requantize_gguf.py``, a GGUF file in other forms
``prepare_vectors.py`` the same for S4; ``convert_nncf.py``, a converter that is a few lines of Python
``check.py``           before anything is timed: whoever computes in float32 gives the reference's tokens
``quality.py``         how good the systems of S3 and S4 are, each judged once
``places.py``          where all that lies; ``processes.py`` starts a measuring process
``run.py``             the rounds; ``results.py``, what they found
``report.py``          medians, ratios, the table; ``chart.py`` draws it
``profile.py``         by which operators edgewise spends its time
``floors.py``          what a request must read and multiply at least; ``roofline.py``, how fast this machine does so
=====================  =================================================================================
"""
