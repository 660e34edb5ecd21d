{{/* Names (those of CronJobs end at 52 characters), labels, and what every pod has. Each takes the root context unless it is said otherwise. */}}

{{- define "sniproxy.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 36 | trimSuffix "-" -}}
{{- end -}}

{{- define "sniproxy.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- else if contains (include "sniproxy.name" .) .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sniproxy.name" .) | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* [root, component]: what selects the pods of a component */}}
{{- define "sniproxy.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "sniproxy.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* [root, component] */}}
{{- define "sniproxy.labels" -}}
{{- $root := index . 0 -}}
{{ include "sniproxy.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* [root, digest or tag of the canary or ""] */}}
{{- define "sniproxy.image" -}}
{{- $root := index . 0 -}}
{{- $image := $root.Values.image -}}
{{- $version := index . 1 | default $image.digest | default $image.tag | default $root.Chart.AppVersion -}}
{{ $image.repository }}{{ ternary "@" ":" (hasPrefix "sha256:" $version) }}{{ $version }}
{{- end -}}

{{- define "sniproxy.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "sniproxy.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* What every pod has. Variables of Services (SNIPROXY_...) would be taken for settings, hence no links to them. */}}
{{- define "sniproxy.podBase" -}}
serviceAccountName: {{ include "sniproxy.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Sysctls as name -> value, or an empty dict */}}
{{- define "sniproxy.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with . }}
  sysctls:
  {{- range $name, $value := . }}
    - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "sniproxy.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where pods may run: the values of one component */}}
{{- define "sniproxy.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* [root, name of a Secret, key, length]: what is in the Secret now, else random letters and digits; base64 */}}
{{- define "sniproxy.kept" -}}
{{- $root := index . 0 -}}
{{- $kept := lookup "v1" "Secret" $root.Release.Namespace (index . 1) -}}
{{- dig "data" (index . 2) (randAlphaNum (int (index . 3)) | b64enc) ($kept | default dict) -}}
{{- end -}}
