{{/* sniproxy.yaml, and what else follows from the values. */}}

{{- define "sniproxy.statusPort" -}}7085{{- end -}}
{{- define "sniproxy.adminPort" -}}9180{{- end -}}

{{/* Seconds that a pod needs to end */}}
{{- define "sniproxy.drainTime" -}}
{{- $drain := .Values.proxy.drain -}}
{{- add $drain.accept $drain.deadline $drain.spread -}}
{{- end -}}

{{/* The same, and half a minute in which nothing is left to do; whole seconds */}}
{{- define "sniproxy.gracePeriod" -}}
{{- .Values.proxy.terminationGracePeriodSeconds | default (add (include "sniproxy.drainTime" .) 30) | int -}}
{{- end -}}

{{- define "sniproxy.etcdEndpoints" -}}
{{- $etcd := .Values.etcd -}}
{{- if $etcd.bundled -}}
{{- $name := include "sniproxy.fullname" . -}}
{{- $namespace := .Release.Namespace -}}
{{- $hosts := list -}}
{{- range $i := until (int $etcd.replicas) -}}
{{- $hosts = append $hosts (printf "%s-etcd-%d.%s-etcd-peers.%s.svc:2379" $name $i $name $namespace) -}}
{{- end -}}
{{- join "," $hosts -}}
{{- else -}}
{{- join "," $etcd.endpoints -}}
{{- end -}}
{{- end -}}

{{/* The Secret with ca.crt; empty: the system's authorities */}}
{{- define "sniproxy.etcdTlsSecret" -}}
{{- $etcd := .Values.etcd -}}
{{- if and $etcd.bundled (not $etcd.tls.existingSecret) -}}
{{ include "sniproxy.fullname" . }}-etcd-tls
{{- else if $etcd.tls.enabled -}}
{{ $etcd.tls.existingSecret }}
{{- end -}}
{{- end -}}

{{- define "sniproxy.etcdUsersSecret" -}}
{{ .Values.etcd.existingSecret | default (printf "%s-etcd-users" (include "sniproxy.fullname" .)) }}
{{- end -}}

{{- define "sniproxy.keyringSecret" -}}
{{ .Values.keyring.existingSecret | default (printf "%s-keyring" (include "sniproxy.fullname" .)) }}
{{- end -}}

{{- define "sniproxy.adminSecret" -}}
{{ .Values.admin.existingSecret | default (printf "%s-admin" (include "sniproxy.fullname" .)) }}
{{- end -}}

{{/* What the chart computes: the only source of these settings, which `config` may not name (refusals.yaml) */}}
{{- define "sniproxy.computed" -}}
{{- $etcd := .Values.etcd -}}
store: {{ ternary "etcds" "etcd" $etcd.tls.enabled }}://{{ include "sniproxy.etcdEndpoints" . }}{{ $etcd.prefix }}
state_dir: /var/lib/sniproxy
proxy:
  listeners:
  {{- range .Values.listeners }}
    - address: 0.0.0.0:{{ int .containerPort }}
      tls: {{ .tls | default false }}
      tls_passthrough: {{ .tlsPassthrough | default false }}
      proxy_protocol: {{ $.Values.proxyProtocol }}
      allow: {{ .allow | default list | toJson }}
      deny: {{ .deny | default list | toJson }}
  {{- end }}
  trusted: {{ ternary .Values.balancerNetworks list .Values.proxyProtocol | toJson }}
  workers: {{ .Values.proxy.workers }}
  keepalive_idle: {{ int .Values.proxy.keepaliveIdle }}
  deny_upstreams: {{ toJson .Values.proxy.denyUpstreams }}
  allow_upstreams: {{ toJson .Values.proxy.allowUpstreams }}
drain:
  accept: {{ .Values.proxy.drain.accept }}
  deadline: {{ .Values.proxy.drain.deadline }}
  spread: {{ .Values.proxy.drain.spread }}
admin:
  address: 0.0.0.0:{{ include "sniproxy.adminPort" . }}
  allow: {{ toJson .Values.admin.allow }}
  shutdown_delay: {{ .Values.admin.shutdownDelay }}
  {{- if .Values.admin.tlsSecretName }}
  cert_file: /etc/sniproxy/admin/tls.crt
  key_file: /etc/sniproxy/admin/tls.key
  {{- end }}
status:
  address: 0.0.0.0:{{ include "sniproxy.statusPort" . }}
{{- if $etcd.tls.enabled }}
etcd:
  {{- if include "sniproxy.etcdTlsSecret" . }}
  ca_file: /etc/sniproxy/etcd/ca.crt
  {{- end }}
  {{- if $etcd.tls.clientCertificate }}
  cert_file: /etc/sniproxy/etcd/tls.crt
  key_file: /etc/sniproxy/etcd/tls.key
  {{- end }}
{{- end }}
{{- end -}}

{{/* A quantity, as bytes */}}
{{- define "sniproxy.bytes" -}}
{{- $units := dict "m" 0.001 "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $number := toString . | regexFind "^[0-9.]+" -}}
{{- mulf $number (get $units (toString . | trimPrefix $number)) -}}
{{- end -}}

{{/* [root, config of the canary or {}] */}}
{{- define "sniproxy.settings" -}}
{{- $root := index . 0 -}}
{{- $computed := include "sniproxy.computed" $root | fromYaml -}}
{{- mergeOverwrite $computed (deepCopy $root.Values.config) (deepCopy (index . 1)) | toYaml -}}
{{- end -}}

{{/* [root, "proxy" or "admin"]: the secrets, as variables of a container */}}
{{- define "sniproxy.environment" -}}
{{- $root := index . 0 -}}
{{- $who := index . 1 -}}
- name: TZ
  value: {{ $root.Values.timezone | quote }}
- name: SNIPROXY_ENCRYPTION__KEYRING
  valueFrom: {secretKeyRef: {name: {{ include "sniproxy.keyringSecret" $root }}, key: keyring}}
{{- if $root.Values.etcd.auth }}
- name: SNIPROXY_ETCD__USER
  valueFrom: {secretKeyRef: {name: {{ include "sniproxy.etcdUsersSecret" $root }}, key: {{ $who }}-user}}
- name: SNIPROXY_ETCD__PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "sniproxy.etcdUsersSecret" $root }}, key: {{ $who }}-password}}
{{- end }}
{{- end -}}

{{/* [root, name of the ConfigMap, "proxy" or "admin"]: the volume at /etc/sniproxy. One volume, so that all of it changes at once */}}
{{- define "sniproxy.etcVolume" -}}
{{- $root := index . 0 -}}
{{- $tls := include "sniproxy.etcdTlsSecret" $root -}}
name: etc
projected:
  defaultMode: 0440
  sources:
    - configMap: {name: {{ index . 1 }}}
    {{- if $tls }}
    - secret:
        name: {{ $tls }}
        items:
          - {key: ca.crt, path: etcd/ca.crt}
          {{- if $root.Values.etcd.tls.clientCertificate }}
          - {key: tls.crt, path: etcd/tls.crt}
          - {key: tls.key, path: etcd/tls.key}
          {{- end }}
    {{- end }}
    {{- if and (eq (index . 2) "admin") $root.Values.admin.tlsSecretName }}
    - secret:
        name: {{ $root.Values.admin.tlsSecretName }}
        items: [{key: tls.crt, path: admin/tls.crt}, {key: tls.key, path: admin/tls.key}]
    {{- end }}
    {{- if eq (index . 2) "proxy" }}
    {{- range $root.Values.certificates }}
    - secret:
        name: {{ .secretName }}
        optional: true  # one that cert-manager has not made yet must not hold up all others
        items: [{key: tls.crt, path: certificates/{{ .name }}/tls.crt}, {key: tls.key, path: certificates/{{ .name }}/tls.key}]
    {{- end }}
    {{- end }}
{{- end -}}
