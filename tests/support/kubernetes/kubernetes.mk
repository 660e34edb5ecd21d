# A Kubernetes of one node, for the tests of the chart that need one: its own programs, built as helm is, CoreDNS, kube-router
# for NetworkPolicies, metrics-server and the Prometheus adapter for the autoscaler, and Debian's for containers. It takes a quarter of an hour and root: too long for CI, which asks Kubernetes' schemas instead.
KUBERNETES_SOURCES := tests/support/kubernetes
KUBERNETES_VERSION = $(shell sed -n 's/^\tk8s.io\/kubernetes \(v.*\)/\1/p' $(KUBERNETES_SOURCES)/go.mod)
KUBERNETES = .cache/kubernetes-$(KUBERNETES_VERSION)
KUBERNETES_NODE := .cache/kubernetes-node
COREDNS_VERSION := v1.15.0
KUBE_ROUTER_VERSION := v2.1.0
METRICS_SERVER_VERSION := v0.9.0
CLUSTER_PROGRAMS := $(addprefix $(KUBERNETES_NODE)/bin/,coredns kube-router metrics-server adapter)
# Without them it would take itself for a version 0.0.0.
KUBERNETES_STAMP = $(addprefix -X k8s.io/component-base/version.git,Version=$(KUBERNETES_VERSION) Major=1 \
  Minor=$(word 2,$(subst ., ,$(KUBERNETES_VERSION))))

.PHONY: kubernetes cluster
kubernetes: helm chart-tools $(TESTS)  ## the chart on Kubernetes' own API server; needs Go
	@[ -x $(KUBERNETES)/kubectl ] || { echo 'building Kubernetes $(KUBERNETES_VERSION)'; \
	  cd $(KUBERNETES_SOURCES) && CGO_ENABLED=0 go build -gcflags='all=-N -l -dwarf=false' \
	    -ldflags='-s -w $(KUBERNETES_STAMP)' -o $(CURDIR)/$(KUBERNETES)/ ./cmd/... ; }
	$(BIN)/pytest tests/charts/test_server.py

cluster: kubernetes prometheus $(KUBERNETES_NODE)/.unpacked $(CLUSTER_PROGRAMS) $(ETCD)/etcd  ## the chart in a Kubernetes of one node, upgraded and scaled under players, and docs/eks.md word for word; needs Go, Debian and root
	$(BIN)/pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
	  --python-version $(IMAGE_PYTHON:python%=%) --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
	  --platform manylinux2014_x86_64 --platform any --dest $(KUBERNETES_NODE)/wheels --requirement image/requirements.lock
	rm -f $(KUBERNETES_NODE)/wheels/sniproxy-*
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(KUBERNETES_NODE)/wheels .
	cd $(KUBERNETES_NODE)/wheels && mv sniproxy-*.whl $$(echo sniproxy-*.whl | sed 's/-cp[0-9]*-cp[0-9]*-/-cp311-abi3-/')  # its module is of every Python
	SNIPROXY_CLUSTER=$(CURDIR)/$(KUBERNETES_NODE) unshare --net $(BIN)/pytest $(wildcard tests/charts/test_cluster*.py)

# Debian's packages are unpacked, not installed: nothing outside .cache changes. The base is as slim as that of the image.
$(KUBERNETES_NODE)/.unpacked:
	@echo 'unpacking containerd, runc and a base for the image'
	rm -rf $(KUBERNETES_NODE) && mkdir -p $(KUBERNETES_NODE)
	cd $(KUBERNETES_NODE) && apt-get download -q containerd runc containernetworking-plugins debootstrap \
	    nftables libnftables1 libnftnl11 libjansson4 libmnl0 libgmp10 libedit2 libbsd0 libmd0 \
	    iptables ipset libipset13 libip4tc2 libip6tc2 libxtables12 libnfnetlink0 libnetfilter-conntrack3 \
	  && for one in *.deb; do dpkg-deb -x "$$one" . || exit 1; done && rm *.deb
	DEBOOTSTRAP_DIR=$(CURDIR)/$(KUBERNETES_NODE)/usr/share/debootstrap $(KUBERNETES_NODE)/usr/sbin/debootstrap --no-check-gpg \
	  --variant=minbase --include=python3,python3-venv trixie $(KUBERNETES_NODE)/base http://deb.debian.org/debian > /dev/null
	touch $@

$(KUBERNETES_NODE)/bin/coredns: MODULE := github.com/coredns/coredns@$(COREDNS_VERSION)
$(KUBERNETES_NODE)/bin/kube-router: MODULE := github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@$(KUBE_ROUTER_VERSION)
$(KUBERNETES_NODE)/bin/metrics-server: MODULE := sigs.k8s.io/metrics-server/cmd/metrics-server@$(METRICS_SERVER_VERSION)
$(filter-out %/adapter,$(CLUSTER_PROGRAMS)): | $(KUBERNETES_NODE)/.unpacked
	@echo 'building $(MODULE)'
	$(call go-install,$(MODULE))

$(KUBERNETES_NODE)/bin/adapter: | $(KUBERNETES_NODE)/.unpacked
	@echo 'building the Prometheus adapter'
	cd $(KUBERNETES_SOURCES)/adapter && CGO_ENABLED=0 go build -gcflags='all=-N -l -dwarf=false' -ldflags='-s -w' \
	  -o $(CURDIR)/$@ sigs.k8s.io/prometheus-adapter/cmd/adapter
