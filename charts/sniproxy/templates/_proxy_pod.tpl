{{/* [root, track, ConfigMap, its content, image tag]: the pod of a data plane, `stable` or `canary` */}}
{{- define "sniproxy.proxyPod" -}}
{{- $root := index . 0 -}}
{{- $track := index . 1 -}}
{{- $proxy := $root.Values.proxy -}}
metadata:
  labels:
    {{- include "sniproxy.selector" (list $root "proxy") | nindent 4 }}
    sniproxy/track: {{ $track }}
    {{- with $proxy.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    sniproxy/settings: {{ index . 3 | sha256sum | quote }}
    {{- with $proxy.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "sniproxy.podBase" $root | nindent 2 }}
  {{- include "sniproxy.podSecurity" $proxy.sysctls | nindent 2 }}
  {{- /* SIGTERM begins the drain, and it goes on letting players in: there is nothing for a preStop hook to do. */}}
  terminationGracePeriodSeconds: {{ include "sniproxy.gracePeriod" $root }}
  {{- include "sniproxy.placement" $proxy | nindent 2 }}
  {{- if and $proxy.topologySpread (ne $proxy.kind "DaemonSet") }}
  topologySpreadConstraints:
  {{- range $proxy.topologySpread }}
    - {{- toYaml . | nindent 6 }}
      labelSelector:
        matchLabels: {{- include "sniproxy.selector" (list $root "proxy") | nindent 10 }}
      matchLabelKeys: [pod-template-hash]
  {{- end }}
  {{- end }}
  containers:
    - name: proxy
      image: {{ include "sniproxy.image" (list $root (index . 4)) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [proxy, -c, /etc/sniproxy/sniproxy.yaml]
      {{- include "sniproxy.containerSecurity" $root | nindent 6 }}
      env:
        {{- include "sniproxy.environment" (list $root "proxy") | nindent 8 }}
        {{- with $proxy.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- range $root.Values.listeners }}
        - {name: {{ .name }}, containerPort: {{ int .containerPort }}, protocol: TCP}
        {{- end }}
        - {name: status, containerPort: {{ include "sniproxy.statusPort" $root }}, protocol: TCP}
      startupProbe:
        httpGet: {path: /livez, port: status}
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /livez, port: status}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: status}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      resources: {{- toYaml $proxy.resources | nindent 8 }}
      volumeMounts:
        - {name: etc, mountPath: /etc/sniproxy, readOnly: true}
        - {name: state, mountPath: /var/lib/sniproxy}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - {{- include "sniproxy.etcVolume" (list $root (index . 2) "proxy") | nindent 6 }}
    - name: state
      {{- if $proxy.state.existingClaim }}
      persistentVolumeClaim: {claimName: {{ $proxy.state.existingClaim }}}
      {{- else }}
      emptyDir: {sizeLimit: {{ $proxy.state.sizeLimit }}}
      {{- end }}
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
{{- end -}}
