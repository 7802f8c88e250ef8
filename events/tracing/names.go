package tracing

import "go.opentelemetry.io/otel/attribute"

// The names of attributes. Those of OpenTelemetry follow its semantic conventions 1.45.0. Those of messaging
// are still under development there and may change, and NATS is not among their systems yet.
const (
	systemNATS = "nats"

	MessagingSystem         = attribute.Key("messaging.system")
	MessagingOperationName  = attribute.Key("messaging.operation.name")
	MessagingOperationType  = attribute.Key("messaging.operation.type")
	MessagingDestination    = attribute.Key("messaging.destination.name")
	MessagingTemplate       = attribute.Key("messaging.destination.template")
	MessagingMessageID      = attribute.Key("messaging.message.id")
	MessagingConversationID = attribute.Key("messaging.message.conversation_id")
	MessagingClientID       = attribute.Key("messaging.client.id")

	ErrorType = attribute.Key("error.type")

	HTTPMethod    = attribute.Key("http.request.method")
	HTTPRoute     = attribute.Key("http.route")
	HTTPStatus    = attribute.Key("http.response.status_code")
	HTTPResend    = attribute.Key("http.request.resend_count")
	ServerAddress = attribute.Key("server.address")

	ExportKey = attribute.Key("sheaf.export.key")
	Tenant    = attribute.Key("sheaf.tenant")
	Run       = attribute.Key("sheaf.run")
	Page      = attribute.Key("sheaf.page")
	Pages     = attribute.Key("sheaf.pages")
	Rows      = attribute.Key("sheaf.rows")
	Delivery  = attribute.Key("sheaf.delivery") // of a message, from 1
	Attempt   = attribute.Key("sheaf.attempt")  // of a callback, from 1
)
