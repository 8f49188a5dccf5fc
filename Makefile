# make demo   adenylate kinase from two PDB files to moving atoms, about three minutes on two idle cores
# make test   every test and every notebook     make check  style, types, layers
# make test-quick  the tests without notebooks, browser and long trainings, about three minutes
# make book   build the book                    make lab    JupyterLab on the notebooks
# make book-course  the book without solutions  make slides  ten figures a week, for a course; first: python book/student.py --execute all
# make bench  measure the speed, under 15 minutes on two cores; PEER=path: beside a checkout of the peer (benchmarks/README.md)
# make venv   only set up .venv
# make fuzz   files changed at random against every reader, five minutes (SECONDS=...), then:
# make fuzz-silence  a thousand changes that have a meaning (CHANGES=...): none may be read wrongly in silence; two minutes
# make survive  kill training at random moments, and fill a small disk; about ten minutes
# make sweep    every fault and every pair of faults, for the doctor to name; about half an hour
# make colab  the first cell of every notebook, with the address of _config.yml
# make student  folders for a course: one that stands alone, one with the solutions
# make seal   seals for the answers that are numbers
# make paper  the paper's experiments, hours on two cores; results in book/results
# Each target sets up .venv when it is missing or out of date.

PYTHON ?= python3
# Here for notebooks, which import torch first; cryostar_nb/__init__.py says why.
export GOMP_SPINCOUNT ?= 2000
BIN := .venv/bin
# Two processes share the tests, file by file.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
STAMP := .venv/.installed

.PHONY: venv demo test test-quick check book book-course slides lab bench colab student seal survive fuzz fuzz-silence sweep paper clean

venv: $(STAMP)

$(STAMP): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, not {v[0]}.{v[1]}: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

demo: $(STAMP)
	rm -rf demo
	$(BIN)/cryostar-nb simulate --start data/1ake.pdb --end data/4ake.pdb --out demo/particles --n-particles 10000 --snr 0.1
	$(BIN)/cryostar-nb train demo/particles/particles.star --reference data/1ake.pdb --out demo/run --steps 4000
	$(BIN)/cryostar-nb evaluate demo/run --truth demo/particles/truth.npz
	$(BIN)/cryostar-nb analyse demo/run

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

test-quick: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m "not notebook and not browser and not slow"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

book: $(STAMP)
	$(BIN)/python book/vendor.py
	$(BIN)/python book/make_reference.py
	$(BIN)/jupyter-book build . --toc book/_toc.yml -W --keep-going

book-course: $(STAMP)
	$(BIN)/python book/vendor.py
	$(BIN)/python book/make_reference.py
	$(BIN)/python book/course_book.py

slides: $(STAMP)
	$(BIN)/python book/slides.py

lab: $(STAMP)
	$(BIN)/jupyter lab

bench: $(STAMP)
	$(BIN)/python benchmarks/floor.py
	$(BIN)/python benchmarks/projector.py $(if $(PEER),--peer $(PEER))
	$(BIN)/python benchmarks/step.py $(if $(PEER),--peer $(PEER))
	$(BIN)/python benchmarks/shell.py

fuzz: $(STAMP)
	$(BIN)/python tests/fuzz_readers.py $(if $(SECONDS),--seconds $(SECONDS))
	$(MAKE) fuzz-silence

fuzz-silence: $(STAMP)
	$(BIN)/python tests/fuzz_silence.py $(if $(CHANGES),--changes $(CHANGES))

seal: $(STAMP)
	$(BIN)/python book/seal.py

paper: $(STAMP)
	$(BIN)/python book/paper_runs.py $(if $(WORK),--work $(WORK)) $(if $(ONLY),--only '$(ONLY)')

colab: $(STAMP)
	$(BIN)/python book/colab.py

student: $(STAMP)
	$(BIN)/python book/student.py

survive: $(STAMP)
	$(BIN)/python tests/survive.py

sweep: $(STAMP)
	$(BIN)/python tests/doctor_sweep.py

clean:
	rm -rf .venv demo fuzz _build
