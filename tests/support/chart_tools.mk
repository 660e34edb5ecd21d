# What looks over all that the chart makes: kube-score for what is unwise, kubeconform for what Kubernetes, or whoever else an
# object is for, would not take. Built with Go, as helm is; others' schemas come out of their own modules.
KUBE_SCORE_VERSION := v1.20.0
KUBE_SCORE := .cache/kube-score-$(KUBE_SCORE_VERSION)
KUBECONFORM_VERSION := v0.8.0
KUBECONFORM := .cache/kubeconform-$(KUBECONFORM_VERSION)
CRDS := .cache/crds
AWS_CHARTS := github.com/aws/eks-charts@v0.0.243-0.20260821194545-743f98a89b5b
CERT_MANAGER := github.com/cert-manager/cert-manager@v1.21.2
PROMETHEUS_OPERATOR := github.com/prometheus-operator/prometheus-operator@v0.85.0

.PHONY: chart-tools
chart-tools:  ## kube-score, kubeconform and others' schemas for the tests of the chart; where they cannot be had those are left out, but never by CI
	@if go version > /dev/null 2>&1; \
	then $(MAKE) --silent $(KUBE_SCORE)/kube-score $(KUBECONFORM)/kubeconform $(CRDS)/.all || [ -z "$$CI" ]; \
	else echo 'no Go: the tests of the chart with kube-score and kubeconform are left out'; [ -z "$$CI" ]; fi

# Its module has replacements, which `go install` does not take.
$(KUBE_SCORE)/kube-score:
	@echo 'building kube-score $(KUBE_SCORE_VERSION)'
	@rm -rf $(KUBE_SCORE) && mkdir -p $(KUBE_SCORE)
	@cd $(KUBE_SCORE) && { go mod init built && go get github.com/zegl/kube-score/cmd/kube-score@$(KUBE_SCORE_VERSION) ; } > log 2>&1 \
	  || { cat log >&2; exit 1; }
	cd $(KUBE_SCORE) && CGO_ENABLED=0 go build -gcflags='all=-N -l -dwarf=false' -ldflags='-s -w' \
	  github.com/zegl/kube-score/cmd/kube-score

$(KUBECONFORM)/kubeconform: ; $(call go-install,github.com/yannh/kubeconform/cmd/kubeconform@$(KUBECONFORM_VERSION))

$(CRDS)/.all: tests/support/chart_tools.mk
	@rm -rf $(CRDS) && mkdir -p $(CRDS)
	$(call of-module,$(AWS_CHARTS),stable/aws-load-balancer-controller/crds/crds.yaml)
	$(call of-module,$(CERT_MANAGER),deploy/crds/cert-manager.io_certificates.yaml)
	$(call of-module,$(PROMETHEUS_OPERATOR),example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml)
	$(call of-module,$(PROMETHEUS_OPERATOR),example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml)
	@touch $@
of-module = folder=$$(go mod download -json $(1) | sed -n 's/.*"Dir": "\(.*\)",/\1/p') && cp "$$folder"/$(2) $(CRDS)
