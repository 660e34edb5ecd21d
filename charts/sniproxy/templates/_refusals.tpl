{{/* What the values say against each other: one message a line, each with the value that is to be changed. */}}
{{- define "sniproxy.refusals" -}}
{{- $values := .Values -}}
{{- $proxy := $values.proxy -}}
{{- $service := $values.service -}}
{{- $etcd := $values.etcd -}}
{{- $nlb := and (eq $service.type "LoadBalancer") $service.nlb.enabled -}}

{{- /* -- the image: an upgrade by a tag that changed nothing would look as if it had gone well -- */}}
{{- if and $values.image.digest $values.image.tag }}
image.tag: {{ $values.image.tag }} would count for nothing, as image.digest is set: set the other digest, or none
{{- end }}
{{- if and $values.canary.imageDigest $values.canary.imageTag }}
canary.imageTag: {{ $values.canary.imageTag }} would count for nothing, as canary.imageDigest is set: set one of them
{{- end }}

{{- /* -- listeners -- */}}
{{- $reserved := list 7085 9180 -}}
{{- $names := list "status" -}}{{- $ports := list -}}{{- $inside := list -}}
{{- range $values.listeners }}
{{- if has .name $names }}
listeners: the name {{ .name }} is taken twice, or by the status port
{{- end }}
{{- if has (int .port) $ports }}
listeners: port {{ .port }} is taken twice
{{- end }}
{{- if or (has (int .containerPort) $inside) (has (int .containerPort) $reserved) }}
listeners: containerPort {{ .containerPort }} is taken twice, or by the status port (7085) or the admin (9180)
{{- end }}
{{- $names = append $names .name }}{{- $ports = append $ports (int .port) }}{{- $inside = append $inside (int .containerPort) }}
{{- end }}

{{- /* -- PROXY protocol: both ends or neither -- */}}
{{- if and $values.proxyProtocol (not $values.balancerNetworks) }}
balancerNetworks: not set, but proxyProtocol is true: name the networks that the load balancer speaks from, such as [10.0.0.0/16], as nobody else may say who a player is
{{- end }}
{{- $sent := or $nlb $service.targetGroups $service.externalProxyProtocol }}
{{- if and $values.proxyProtocol (not $sent) }}
proxyProtocol: is true, but nothing sends it: there is no NLB (service.type {{ $service.type }}, service.nlb.enabled {{ $service.nlb.enabled }}) and there are no service.targetGroups. Set proxyProtocol to false, or service.externalProxyProtocol to true if another load balancer sends it
{{- end }}
{{- if and $service.externalProxyProtocol (not $values.proxyProtocol) }}
service.externalProxyProtocol: is true, but proxyProtocol is false: the header would be taken for the player's first bytes
{{- end }}
{{- range $service.targetGroups }}
{{- if ne .proxyProtocol $values.proxyProtocol }}
service.targetGroups: port {{ .port }} has proxyProtocol {{ .proxyProtocol }}, and the listeners have proxyProtocol {{ $values.proxyProtocol }}: both ends or neither
{{- end }}
{{- end }}

{{- /* -- the load balancer -- */}}
{{- if $nlb }}
{{- if le (int $service.nlb.idleTimeout) (int $proxy.keepaliveIdle) }}
service.nlb.idleTimeout: {{ $service.nlb.idleTimeout }} s is not above proxy.keepaliveIdle, {{ $proxy.keepaliveIdle }} s: the NLB would forget quiet players
{{- end }}
{{- range $name, $_ := include "sniproxy.nlbAnnotations" . | fromYaml }}
{{- if hasKey $service.annotations $name }}
service.annotations: {{ $name }} is computed: set service.nlb or proxyProtocol instead, or service.nlb.enabled to false
{{- end }}
{{- end }}
{{- if and (not $values.proxyProtocol) (hasKey $service.annotations "service.beta.kubernetes.io/aws-load-balancer-proxy-protocol") }}
service.annotations: service.beta.kubernetes.io/aws-load-balancer-proxy-protocol is set, but proxyProtocol is false: set proxyProtocol instead
{{- end }}
{{- range $name, $_ := include "sniproxy.targetGroupAttributes" . | fromYaml }}
{{- if hasKey $service.nlb.targetGroupAttributes $name }}
service.nlb.targetGroupAttributes: {{ $name }} is computed
{{- end }}
{{- end }}
{{- end }}
{{- if and $service.targetGroups (eq $service.type "LoadBalancer") }}
service.targetGroups: are for a load balancer made beforehand, but service.type is LoadBalancer and makes another one: set it to ClusterIP
{{- end }}
{{- range $service.targetGroups }}
{{- if not (has (int .port) $ports) }}
service.targetGroups: port {{ .port }} is no listener's
{{- end }}
{{- if le (int .idleTimeout) (int $proxy.keepaliveIdle) }}
service.targetGroups: the idleTimeout of port {{ .port }}, {{ .idleTimeout }} s, is not above proxy.keepaliveIdle, {{ $proxy.keepaliveIdle }} s: the load balancer would forget quiet players
{{- end }}
{{- end }}

{{- /* -- the end of a pod -- */}}
{{- if and (or $nlb $service.targetGroups) (lt (int $proxy.drain.accept) 120) }}
proxy.drain.accept: {{ $proxy.drain.accept }} s is less than the 120 s for which an NLB goes on sending new players to a pod that ends
{{- end }}
{{- if $proxy.terminationGracePeriodSeconds }}
{{- $needed := add (include "sniproxy.drainTime" .) 30 }}
{{- if lt (int $proxy.terminationGracePeriodSeconds) (int $needed) }}
proxy.terminationGracePeriodSeconds: {{ $proxy.terminationGracePeriodSeconds }} s is less than the drain needs: accept + deadline + spread + 30 = {{ $needed }} s; leave it out to have it computed
{{- end }}
{{- end }}

{{- /* -- the data plane -- */}}
{{- $many := or (eq $proxy.kind "DaemonSet") $proxy.autoscaling.enabled (gt (int $proxy.replicas) 1) $values.canary.enabled }}
{{- if and $proxy.state.existingClaim $many }}
proxy.state.existingClaim: is for one replica only, as each data plane needs a copy of its own
{{- end }}
{{- with $proxy.autoscaling }}
{{- if .enabled }}
{{- if eq $proxy.kind "DaemonSet" }}
proxy.autoscaling: a DaemonSet has one pod per node: set proxy.kind to Deployment
{{- end }}
{{- if not (or .cpuPercent .sessionsPerPod) }}
proxy.autoscaling: neither cpuPercent nor sessionsPerPod is set
{{- end }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
proxy.autoscaling: minReplicas {{ .minReplicas }} is above maxReplicas {{ .maxReplicas }}
{{- end }}
{{- /* Kubernetes lets one go each minute, but counts from where the minute began: pods that came within it may all go. */}}
{{- if lt (int .scaleDownAfter) 90 }}
proxy.autoscaling.scaleDownAfter: {{ .scaleDownAfter }} s is less than 90 s: pods that have just come could all be drained at once
{{- end }}
{{- end }}
{{- end }}

{{- range $proxy.extraEnv }}
{{- if hasPrefix "SNIPROXY_" .name }}
proxy.extraEnv: {{ .name }} is a setting: it goes into config
{{- end }}
{{- end }}

{{- /* -- disks of nodes: 64Mi for /tmp and 256Mi for the log, of which a kubelet keeps 50Mi unless it is told otherwise -- */}}
{{- $held := dict "proxy" (ternary "0" $proxy.state.sizeLimit (ne $proxy.state.existingClaim "")) -}}
{{- if and $etcd.bundled (not $etcd.persistence.enabled) }}{{- $_ := set $held "etcd" $etcd.persistence.size }}{{- end }}
{{- range $who, $size := $held }}
{{- with get (get $values $who).resources.limits "ephemeral-storage" }}
{{- if lt (include "sniproxy.bytes" . | float64) (addf (include "sniproxy.bytes" $size) (include "sniproxy.bytes" "320Mi")) }}
{{ $who }}.resources.limits.ephemeral-storage: {{ . }} does not hold {{ ternary "proxy.state.sizeLimit" "etcd.persistence.size" (eq $who "proxy") }}, {{ $size }}, and 320Mi for /tmp and the log: a pod that goes over it ends at once
{{- end }}
{{- end }}
{{- end }}

{{- /* -- settings that the chart computes, in config -- */}}
{{- $computed := dict "proxy" (list "listeners" "trusted" "workers" "keepalive_idle" "deny_upstreams" "allow_upstreams") "admin" (list "address" "allow" "keys" "cert_file" "key_file" "shutdown_delay") "etcd" (list "user" "password" "ca_file" "cert_file" "key_file") -}}
{{- range $where, $config := dict "config" $values.config "canary.config" $values.canary.config }}
{{- range $section, $settings := $computed }}
{{- range $settings }}
{{- if hasKey (get $config $section | default dict) . }}
{{ $where }}.{{ $section }}.{{ . }}: comes from the other values: do not set it here
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* -- certificates and the admin -- */}}
{{- $names := list -}}
{{- range $values.certificates }}
{{- if has .name $names }}
certificates: the name {{ .name }} is taken twice
{{- end }}
{{- if ne (empty .issuerRef) (empty .dnsNames) }}
certificates: {{ .name }} has only one of issuerRef and dnsNames: cert-manager needs both, a Secret that is there neither
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- if and $values.admin.ingress.enabled (not $values.admin.ingress.host) }}
admin.ingress.host: not set
{{- end }}
{{- if and $values.admin.ingress.enabled $values.networkPolicy.enabled (not $values.balancerNetworks) }}
balancerNetworks: not set, but admin.ingress is enabled: the NetworkPolicy would keep the ALB out
{{- end }}

{{- /* -- etcd -- */}}
{{- if hasPrefix "/sniproxy/" (printf "%s/" $etcd.prefix) }}
etcd.prefix: /sniproxy/ is where sniproxy keeps its own keys: name another one
{{- end }}
{{- if $etcd.bundled }}
{{- if $etcd.endpoints }}
etcd.endpoints: are those of another etcd, but etcd.bundled is true
{{- end }}
{{- if not (and $etcd.auth $etcd.tls.enabled) }}
etcd: the bundled one has etcd.auth and etcd.tls.enabled, always
{{- end }}
{{- if $etcd.tls.clientCertificate }}
etcd.tls.clientCertificate: is for an etcd that is not bundled
{{- end }}
{{- $needed := dict -}}
{{- if $etcd.persistence.enabled }}{{- $_ := set $needed "etcd.persistence.storageClass" $etcd.persistence.storageClass }}{{- end }}
{{- if $etcd.snapshots.enabled }}{{- $_ := set $needed "etcd.snapshots.storageClass" ($etcd.snapshots.storageClass | default $etcd.persistence.storageClass) }}{{- end }}
{{- range $value, $class := $needed }}
{{- if not $class }}
{{ $value }}: not set: name one that `kubectl get storageclass` shows (on EKS one of the EBS CSI driver, such as gp3), or "-" for the cluster's default
{{- end }}
{{- end }}
{{- else }}
{{- if not $etcd.endpoints }}
etcd.endpoints: not set, and etcd.bundled is false: name those of your etcd, such as [etcd-0.example.com:2379]
{{- end }}
{{- if and $etcd.auth (not $etcd.existingSecret) }}
etcd.existingSecret: not set: a Secret with admin-user, admin-password, proxy-user and proxy-password of your etcd; or set etcd.auth to false
{{- end }}
{{- if and $etcd.tls.clientCertificate (not (and $etcd.tls.enabled $etcd.tls.existingSecret)) }}
etcd.tls.clientCertificate: needs etcd.tls.enabled and etcd.tls.existingSecret
{{- end }}
{{- end }}
{{- end -}}
