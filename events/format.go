package events

// Format is a kind of finished file, by which a request can ask for it.
type Format struct {
	Name      string // value of ext_type, whatever its case
	Ext       string // of the finished file, with its dot
	MediaType string
}

// XLSX is a workbook in a zip.
var XLSX = Format{Name: "XLSX", Ext: ".zip", MediaType: "application/zip"}
