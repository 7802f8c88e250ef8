//go:build ignore

// Prints the rows of a workbook, or of a zip with one workbook, as JSON: go run .ci/rows.go FILE
package main

import (
	"archive/zip"
	"encoding/json"
	"log"
	"os"
	"path"
	"strings"

	"github.com/xuri/excelize/v2"
)

func main() {
	rows, err := read(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(rows); err != nil {
		log.Fatal(err)
	}
}

func read(name string) ([][]string, error) {
	book, err := open(name)
	if err != nil {
		return nil, err
	}
	defer book.Close()
	return book.GetRows(book.GetSheetName(0))
}

func open(name string) (*excelize.File, error) {
	archive, err := zip.OpenReader(name)
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	for _, f := range archive.File {
		if !strings.EqualFold(path.Ext(f.Name), ".xlsx") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return excelize.OpenReader(r)
	}
	return excelize.OpenFile(name)
}
