{{/* Labels of every object; with a component, of its pods. */}}
{{- define "phi.labels" -}}
app.kubernetes.io/name: phi-serve
app.kubernetes.io/part-of: phi-serve
{{- end }}

{{- define "phi.security" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "phi.redis" -}}
{{ .Values.redis.address | default "phi-serve-redis:6379" }}
{{- end }}

{{/* What every container of a Ray node has. Takes image, name and the root context. */}}
{{- define "phi.container" -}}
name: {{ .name }}
image: {{ .root.Values.image.registry }}{{ .image }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext: {{- include "phi.security" . | nindent 2 }}
env:
  - name: HF_HUB_OFFLINE
    value: {{ ternary "0" "1" .root.Values.networkPolicy.hub | quote }}
  {{- if eq (dig "store" "url_env" "" .root.Values.args) "PHI_SERVE_STORE_URL" }}
  - name: PHI_SERVE_REDIS_PASSWORD
    valueFrom:
      secretKeyRef: {name: {{ .root.Values.redis.secret }}, key: password}
  - name: PHI_SERVE_STORE_URL
    value: redis://:$(PHI_SERVE_REDIS_PASSWORD)@{{ include "phi.redis" .root }}/1
  {{- end }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: home, mountPath: /home/phi}
  - {name: cache, mountPath: /cache}
  - {name: shm, mountPath: /dev/shm}
  {{- if .root.Values.storage.claim }}
  - {name: models, mountPath: /models, readOnly: true}
  {{- end }}
  {{- if .root.Values.keys.secret }}
  - {name: keys, mountPath: /run/phi-serve/keys, readOnly: true}
  {{- end }}
lifecycle:
  preStop:
    exec:
      command: [sleep, "10"]
{{- end }}

{{/* What every pod of a Ray node has, its container aside. */}}
{{- define "phi.pod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
terminationGracePeriodSeconds: {{ .Values.graceSeconds }}
enableServiceLinks: false
volumes:
  - {name: tmp, emptyDir: {sizeLimit: 4Gi}}
  - {name: home, emptyDir: {sizeLimit: 256Mi}}
  - {name: cache, emptyDir: {sizeLimit: {{ .Values.storage.cache }}}}
  - {name: shm, emptyDir: {medium: Memory, sizeLimit: 1Gi}}
  {{- if .Values.storage.claim }}
  - {name: models, persistentVolumeClaim: {claimName: {{ .Values.storage.claim }}, readOnly: true}}
  {{- end }}
  {{- with .Values.keys.secret }}
  - {name: keys, secret: {secretName: {{ . }}, items: [{key: keys.json, path: keys.json}], defaultMode: 288}}
  {{- end }}
{{- end }}

{{- define "phi.startParams" -}}
num-cpus: {{ .cpus | quote }}
num-gpus: {{ .gpus | quote }}
object-store-memory: "268435456"
metrics-export-port: "8080"
{{- end }}
