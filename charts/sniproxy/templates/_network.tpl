{{/* Parts of NetworkPolicies. */}}

{{/* Who asks etcd, where it is ours */}}
{{- define "sniproxy.etcdClients" -}}
{{- range list "proxy" "admin" "etcd-jobs" }}
- podSelector:
    matchLabels: {{- include "sniproxy.selector" (list $ .) | nindent 6 }}
{{- end }}
{{- end -}}
{{- define "sniproxy.dnsEgress" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end -}}
{{- define "sniproxy.etcdEgress" -}}
{{- if .Values.etcd.bundled }}
- ports: [{port: 2379, protocol: TCP}]
  to:
    - podSelector:
        matchLabels: {{- include "sniproxy.selector" (list . "etcd") | nindent 10 }}
{{- else }}
- ports:
  {{- range .Values.etcd.endpoints }}
    - {port: {{ splitList ":" . | last | int }}, protocol: TCP}
  {{- end }}
{{- end }}
{{- end -}}
