{{/* serve_config.yaml from the values; groups keep their order, which routing falls back to. */}}
{{- define "phi.serveConfig" -}}
{{ toYaml .Values.serve }}
applications:
  - {{- toYaml .Values.application | nindent 4 }}
    args:
      {{- toYaml .Values.args | nindent 6 }}
      models: {{- toYaml .Values.models | nindent 8 }}
      engines:
        {{- range .Values.groups }}
        {{ .name }}: {{- toYaml .engine | nindent 10 }}
        {{- end }}
    deployments:
      {{- if .Values.ingress }}
      - name: ingress
        {{- toYaml .Values.ingress | nindent 8 }}
      {{- end }}
      {{- range .Values.groups }}
      {{- if .deployment }}
      - name: {{ .name }}
        {{- toYaml .deployment | nindent 8 }}
      {{- end }}
      {{- end }}
{{- end }}
