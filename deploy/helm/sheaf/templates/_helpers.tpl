{{- define "sheaf.name" -}}
{{- $name := ternary .Release.Name (printf "%s-sheaf" .Release.Name) (contains "sheaf" .Release.Name) -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "sheaf.selector" -}}
app.kubernetes.io/name: sheaf
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sheaf.labels" -}}
{{ include "sheaf.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* Combinations that the schema cannot express. */ -}}
{{- define "sheaf.check" -}}
{{- $v := .Values -}}
{{- if not $v.publicURL }}{{ fail "publicURL: set the URL at which callers reach Sheaf, such as https://exports.example.com" }}{{ end -}}
{{- if and (not $v.nats.urls) (not $v.nats.urlsSecret.name) }}{{ fail "nats.urls: name the NATS servers, or set nats.urlsSecret.name" }}{{ end -}}
{{- if and $v.nats.urls $v.nats.urlsSecret.name }}{{ fail "nats.urls and nats.urlsSecret.name exclude each other" }}{{ end -}}
{{- if and (not $v.apiKeys.secret) (not $v.insecureNoAuth) }}{{ fail "apiKeys.secret: name the Secret with the file of sheaf keys add, or set insecureNoAuth behind a proxy that authenticates" }}{{ end -}}
{{- if and $v.apiKeys.secret $v.insecureNoAuth }}{{ fail "apiKeys.secret and insecureNoAuth exclude each other" }}{{ end -}}
{{- if and (hasPrefix "s3://" $v.files.url) (not $v.files.s3Secret.name) }}{{ fail "files.s3Secret.name: name the Secret with the access key of s3://" }}{{ end -}}
{{- end -}}

{{- /* The longest time from SIGTERM to the end: the delay, 15 s for the drain, and 5 s to spare. */ -}}
{{- define "sheaf.grace" -}}
{{- if eq .role "ingress" }}{{ add 20 .root.Values.ingress.shutdownDelaySeconds }}{{ else }}20{{ end -}}
{{- end -}}

{{- define "sheaf.env" -}}
{{- $v := .root.Values -}}
- {name: SHEAF_ROLES, value: {{ .role }}}
- {name: SHEAF_DATA, value: /data}
- {name: SHEAF_OPS, value: "0.0.0.0:9091"}
- {name: SHEAF_LOG_FORMAT, value: json}
- {name: SHEAF_PUBLIC_URL, value: {{ $v.publicURL | quote }}}
- {name: SHEAF_SECRET_KEY_FILE, value: /run/secrets/sheaf/secret-key}
- {name: SHEAF_REPLICAS, value: {{ $v.nats.replicas | quote }}}
- {name: SHEAF_FILES, value: {{ $v.files.url | quote }}}
{{- if $v.nats.urlsSecret.name }}
- name: SHEAF_NATS
  valueFrom: {secretKeyRef: {name: {{ $v.nats.urlsSecret.name }}, key: {{ $v.nats.urlsSecret.key }}}}
{{- else }}
- {name: SHEAF_NATS, value: {{ join "," $v.nats.urls | quote }}}
{{- end }}
{{- if $v.nats.credsSecret.name }}
- {name: SHEAF_NATS_CREDS, value: /run/secrets/sheaf/nats.creds}
{{- end }}
{{- if hasPrefix "s3://" $v.files.url }}
- {name: SHEAF_S3_ACCESS_KEY_FILE, value: /run/secrets/sheaf/s3-access-key}
- {name: SHEAF_S3_SECRET_KEY_FILE, value: /run/secrets/sheaf/s3-secret-key}
{{- end }}
{{- if eq .role "ingress" }}
- {name: SHEAF_HTTP, value: "0.0.0.0:8080"}
- {name: SHEAF_SHUTDOWN_DELAY, value: "{{ $v.ingress.shutdownDelaySeconds }}s"}
{{- if $v.insecureNoAuth }}
- {name: SHEAF_INSECURE_NO_AUTH, value: "true"}
{{- else }}
- {name: SHEAF_API_KEYS, value: /run/secrets/api-keys/{{ $v.apiKeys.key }}}
{{- end }}
{{- end }}
{{- range $flag, $value := $v.settings }}
- name: SHEAF_{{ $flag | upper | replace "-" "_" }}
{{- if kindIs "slice" $value }}
  value: {{ join "," $value | quote }}
{{- else if kindIs "float64" $value }}
  value: {{ $value | int64 | quote }}
{{- else }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- with $v.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sheaf.pod" -}}
{{- $v := .root.Values -}}
{{- $persistent := and (eq .role "ingress") $v.ingress.persistent -}}
metadata:
  labels:
    {{- include "sheaf.selector" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
  {{- with $v.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "sheaf.grace" . }}
  {{- with $v.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  topologySpreadConstraints:
    {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ $key }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "sheaf.selector" $.root | nindent 10 }}
          app.kubernetes.io/component: {{ $.role }}
    {{- end }}
  containers:
    - name: sheaf
      image: {{ printf "%s:%s" $v.image.repository ($v.image.tag | default .root.Chart.AppVersion) | quote }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      args: [serve]
      env:
        {{- include "sheaf.env" . | nindent 8 }}
      ports:
        - {name: ops, containerPort: 9091}
        {{- if eq .role "ingress" }}
        - {name: http, containerPort: 8080}
        {{- end }}
      # /healthz answers from the first moment of a start, so a slow start needs no startupProbe.
      livenessProbe:
        httpGet: {path: /healthz, port: ops}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: /readyz, port: ops}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 2
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      resources: {{- toYaml (index $v .role).resources | nindent 8 }}
      volumeMounts:
        - {name: data, mountPath: /data}
        - {name: tmp, mountPath: /tmp}
        - {name: secrets, mountPath: /run/secrets/sheaf, readOnly: true}
        {{- if and (eq .role "ingress") $v.apiKeys.secret }}
        - {name: api-keys, mountPath: /run/secrets/api-keys, readOnly: true}
        {{- end }}
  volumes:
    {{- if not $persistent }}
    - name: data
      emptyDir: {sizeLimit: {{ (index $v .role).dataSize }}}
    {{- end }}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    - name: secrets
      projected:
        defaultMode: 0440
        sources:
          - secret:
              name: {{ $v.secretKey.secret }}
              items: [{key: {{ $v.secretKey.key }}, path: secret-key}]
          {{- if $v.nats.credsSecret.name }}
          - secret:
              name: {{ $v.nats.credsSecret.name }}
              items: [{key: {{ $v.nats.credsSecret.key }}, path: nats.creds}]
          {{- end }}
          {{- if hasPrefix "s3://" $v.files.url }}
          - secret:
              name: {{ $v.files.s3Secret.name }}
              items:
                - {key: {{ $v.files.s3Secret.accessKey }}, path: s3-access-key}
                - {key: {{ $v.files.s3Secret.secretKey }}, path: s3-secret-key}
          {{- end }}
    {{- if and (eq .role "ingress") $v.apiKeys.secret }}
    # A folder of its own: Sheaf reads the file again when the Secret changes.
    - name: api-keys
      secret: {secretName: {{ $v.apiKeys.secret }}, defaultMode: 0440}
    {{- end }}
  {{- with $v.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
{{- end -}}
