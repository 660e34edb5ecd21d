{{/* What the load balancer is told, as text of annotations. */}}

{{/* Attributes of the target groups, as a dict. Sessions survive a check that fails and a pod that is on its way out. */}}
{{- define "sniproxy.targetGroupAttributes" -}}
{{- $drain := int (include "sniproxy.drainTime" .) -}}
proxy_protocol_v2.enabled: {{ .Values.proxyProtocol | quote }}
preserve_client_ip.enabled: "false"
deregistration_delay.timeout_seconds: {{ min $drain 3600 | quote }}
deregistration_delay.connection_termination.enabled: "false"
target_health_state.unhealthy.connection_termination.enabled: "false"
target_health_state.unhealthy.draining_interval_seconds: {{ $drain | quote }}
{{- end -}}

{{/* Annotations of the Service for the AWS Load Balancer Controller, as a dict */}}
{{- define "sniproxy.nlbAnnotations" -}}
{{- $nlb := .Values.service.nlb -}}
{{- $attributes := list -}}
{{- range $name, $value := merge (include "sniproxy.targetGroupAttributes" . | fromYaml) $nlb.targetGroupAttributes -}}
{{- $attributes = append $attributes (printf "%s=%v" $name $value) -}}
{{- end -}}
{{- $prefix := "service.beta.kubernetes.io/aws-load-balancer" -}}
{{ $prefix }}-type: external
{{ $prefix }}-nlb-target-type: ip
{{ $prefix }}-scheme: {{ $nlb.scheme }}
{{- if .Values.proxyProtocol }}
{{ $prefix }}-proxy-protocol: "*"
{{- end }}
{{ $prefix }}-attributes: load_balancing.cross_zone.enabled={{ $nlb.crossZone }}
{{ $prefix }}-target-group-attributes: {{ join "," $attributes }}
{{ $prefix }}-healthcheck-protocol: http
{{ $prefix }}-healthcheck-port: {{ include "sniproxy.statusPort" . | quote }}
{{ $prefix }}-healthcheck-path: /readyz
{{ $prefix }}-healthcheck-success-codes: "200"
{{ $prefix }}-healthcheck-interval: {{ $nlb.healthCheckInterval | int | quote }}
{{ $prefix }}-healthcheck-timeout: {{ min 5 (sub $nlb.healthCheckInterval 1) | quote }}
{{ $prefix }}-healthcheck-healthy-threshold: "2"
{{ $prefix }}-healthcheck-unhealthy-threshold: "2"
{{- range .Values.listeners }}
{{ $prefix }}-listener-attributes.TCP-{{ int .port }}: tcp.idle_timeout.seconds={{ int $nlb.idleTimeout }}
{{- end }}
{{- end -}}
