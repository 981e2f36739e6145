# Everything a newcomer needs: `make demo`, `make test`. The rest is for people who change the code.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FILE ?=

.PHONY: demo dev test check system deep coverage bench plot format clean

$(VENV)/.ready: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Another implementation of COSE, which wants an older cbor2: apart from ours, for `make system`.
$(VENV)-cose/.ready: constraints-cose.txt
	$(PYTHON) -m venv $(VENV)-cose
	$(VENV)-cose/bin/pip install --quiet --disable-pip-version-check --require-hashes -r constraints-cose.txt
	touch $@

# matplotlib, which nothing else needs.
$(VENV)-plot/.ready: constraints-plot.txt
	$(PYTHON) -m venv $(VENV)-plot
	$(VENV)-plot/bin/pip install --quiet --disable-pip-version-check --require-hashes -r constraints-plot.txt
	touch $@

demo: $(VENV)/.ready  ## The whole flow on real processes and real files (FILE=path for your own)
	$(BIN)/ostnode demo $(if $(FILE),--file "$(FILE)")

dev: $(VENV)/.ready  ## A single-node cluster in ./ost-data, until Ctrl-C
	$(BIN)/ostnode dev

test: $(VENV)/.ready  ## At most ten minutes
	$(BIN)/pytest -m "not system and not deep"

check: $(VENV)/.ready  ## Linters, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/flake8-async --disable ASYNC9,ASYNC114,ASYNC128 $$(git ls-files "ostnode/*.py" "tests/*.py" "bench/*.py")
	$(BIN)/mypy
	$(BIN)/lint-imports

system: $(VENV)/.ready $(VENV)-cose/.ready  ## Real processes, faults, other programs; at most twenty minutes
	$(BIN)/pytest -m system

deep: $(VENV)/.ready  ## The long sweeps
	@# Traces are taken of a thread that runs, which now and then crashes it: only of what hangs.
	HYPOTHESIS_PROFILE=deep $(BIN)/pytest -o faulthandler_timeout=3600 -m "deep or not deep"

coverage: $(VENV)/.ready  ## Branch coverage of `make test`
	$(BIN)/coverage run -m pytest -m "not system and not deep"
	$(BIN)/coverage report

bench: $(VENV)/.ready  ## Each program prints a ratio to a reference measured in the same run
	for program in bench/*.py; do $(BIN)/python $$program || exit 1; done

plot: $(VENV)/.ready $(VENV)-plot/.ready  ## The store at up to a million blobs, into docs/store-scale.png
	mkdir -p build
	$(BIN)/python bench/store_scale.py --sizes 10000 100000 1000000 --json build/store-scale.json
	$(VENV)-plot/bin/python docs/plot_scale.py build/store-scale.json docs/store-scale.png

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-cose $(VENV)-plot .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage*
