package storage

import (
	"errors"
	"regexp"
	"strings"
)

// S3 says how the S3 server of a store s3://BUCKET/PREFIX is reached.
type S3 struct {
	Endpoint  string // http://HOST:PORT or https://HOST; "" for AWS
	Region    string // "" for us-east-1
	PathStyle bool   // the bucket is in the path, not in the host name
	// Files of the access key and of its secret, read again each minute; "" for the environment's
	// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or on AWS the role of the machine.
	AccessKeyFile, SecretKeyFile string
}

var (
	s3Bucket = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	s3Prefix = regexp.MustCompile(`^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$`)
)

// maxS3Prefix leaves room in the 1,024 bytes of a key.
const maxS3Prefix = 512

// ParseS3URL splits s3://BUCKET/PREFIX. The prefix may be empty; it neither begins nor ends with a slash.
func ParseS3URL(url string) (bucket, prefix string, err error) {
	rest, ok := strings.CutPrefix(url, "s3://")
	bucket, prefix, _ = strings.Cut(rest, "/")
	prefix = strings.TrimSuffix(prefix, "/")
	switch {
	case !ok || !s3Bucket.MatchString(bucket):
		return "", "", errors.New("want s3://BUCKET/PREFIX; a bucket has 3 to 63 of a-z, 0-9, dots and hyphens")
	case len(prefix) > maxS3Prefix || !s3Prefix.MatchString(prefix):
		return "", "", errors.New("want s3://BUCKET/PREFIX; a prefix has at most 512 of A-Z, a-z, 0-9, - _ . and /, " +
			"and none of its parts begins with a dot")
	}
	return bucket, prefix, nil
}
