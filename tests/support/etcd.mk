# The etcd that the chart has, with etcdctl and etcdutl: built with Go, as helm is, since the wheel's is an old one.
ETCD_VERSION := $(shell sed -n 's/.*etcd-development\/etcd, tag: \(v[0-9.]*\).*/\1/p' charts/sniproxy/values.yaml 2> /dev/null)
ETCD := .cache/etcd-$(ETCD_VERSION)

.PHONY: etcd
etcd:  ## the chart's etcd for the tests of the store; where it cannot be had they have the wheel's alone, but never in CI
	@if go version > /dev/null 2>&1; then $(MAKE) --silent $(ETCD)/etcd || [ -z "$$CI" ]; \
	else echo 'no Go: the store is tested with the etcd of the wheel alone'; [ -z "$$CI" ]; fi

$(ETCD)/etcd:
	@echo 'building etcd $(ETCD_VERSION)'
	@rm -rf $(ETCD) && mkdir -p $(ETCD)/source
	@printf 'package main\n\nimport (\n"os"\n"go.etcd.io/etcd/server/v3/etcdmain"\n)\n\nfunc main() { etcdmain.Main(os.Args) }\n' \
	  > $(ETCD)/source/main.go
	@cd $(ETCD)/source && { go mod init etcd && go get $(addprefix go.etcd.io/etcd/,$(addsuffix @$(ETCD_VERSION),server/v3 etcdctl/v3 etcdutl/v3)) ; } \
	  > log 2>&1 || { cat log >&2; exit 1; }
	cd $(ETCD)/source && CGO_ENABLED=0 go build -gcflags='all=-N -l -dwarf=false' -ldflags='-s -w' -o .. . \
	  go.etcd.io/etcd/etcdctl/v3 go.etcd.io/etcd/etcdutl/v3
