# A Kubernetes of one node, for the tests of the chart that need one: its own programs, built as helm is, and Debian's for
# containers. It takes five minutes and root: too long for CI, which asks Kubernetes' schemas instead.
KUBERNETES_SOURCES := tests/support/kubernetes
KUBERNETES_VERSION = $(shell sed -n 's/^\tk8s.io\/kubernetes \(v.*\)/\1/p' $(KUBERNETES_SOURCES)/go.mod)
KUBERNETES = .cache/kubernetes-$(KUBERNETES_VERSION)
KUBERNETES_NODE := .cache/kubernetes-node
# Without them it would take itself for a version 0.0.0.
KUBERNETES_STAMP = $(addprefix -X k8s.io/component-base/version.git,Version=$(KUBERNETES_VERSION) Major=1 \
  Minor=$(word 2,$(subst ., ,$(KUBERNETES_VERSION))))

.PHONY: kubernetes cluster
kubernetes: helm chart-tools $(TESTS)  ## the chart on Kubernetes' own API server; needs Go
	@[ -x $(KUBERNETES)/kubelet ] || { echo 'building Kubernetes $(KUBERNETES_VERSION)'; \
	  cd $(KUBERNETES_SOURCES) && CGO_ENABLED=0 go build -gcflags='all=-N -l -dwarf=false' \
	    -ldflags='-s -w $(KUBERNETES_STAMP)' -o $(CURDIR)/$(KUBERNETES)/ ./cmd/... ; }
	$(BIN)/pytest tests/charts/test_server.py

cluster: kubernetes $(KUBERNETES_NODE)/.base  ## the chart in a Kubernetes of one node, upgraded under players; needs Go, Debian and root
	$(BIN)/pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
	  --python-version $(IMAGE_PYTHON:python%=%) --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
	  --platform manylinux2014_x86_64 --platform any --dest $(KUBERNETES_NODE)/wheels --requirement image/requirements.lock
	rm -f $(KUBERNETES_NODE)/wheels/sniproxy-*
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(KUBERNETES_NODE)/wheels .
	cd $(KUBERNETES_NODE)/wheels && mv sniproxy-*.whl $$(echo sniproxy-*.whl | sed 's/-cp[0-9]*-cp[0-9]*-/-cp311-abi3-/')  # its module is of every Python
	SNIPROXY_CLUSTER=$(CURDIR)/$(KUBERNETES_NODE) unshare --net $(BIN)/pytest tests/charts/test_cluster.py

# Debian's packages are unpacked, not installed: nothing outside .cache changes. The base is as slim as that of the image.
$(KUBERNETES_NODE)/.base:
	@echo 'unpacking containerd, runc and a base for the image'
	rm -rf $(KUBERNETES_NODE) && mkdir -p $(KUBERNETES_NODE)
	cd $(KUBERNETES_NODE) && apt-get download -q containerd runc containernetworking-plugins debootstrap \
	  && for one in *.deb; do dpkg-deb -x "$$one" . || exit 1; done && rm *.deb
	DEBOOTSTRAP_DIR=$(CURDIR)/$(KUBERNETES_NODE)/usr/share/debootstrap $(KUBERNETES_NODE)/usr/sbin/debootstrap --no-check-gpg \
	  --variant=minbase --include=python3,python3-venv trixie $(KUBERNETES_NODE)/base http://deb.debian.org/debian > /dev/null
	touch $@
