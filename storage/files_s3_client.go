package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
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

const (
	awsEndpoint     = "https://s3.amazonaws.com"
	defaultS3Region = "us-east-1"
	// maxS3Prefix leaves room in the 1,024 bytes of a key.
	maxS3Prefix = 512
)

var (
	s3Bucket = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	s3Prefix = regexp.MustCompile(`^([A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?$`)
)

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

// newS3Files makes the client and sends nothing. Its connections are the operator's own: they are no way for
// tenants, and the rules for sources do not apply.
func newS3Files(address string, cfg S3) (*S3Files, error) {
	bucket, prefix, err := ParseS3URL(address)
	if err != nil {
		return nil, fmt.Errorf("open files: %w", err)
	}
	if prefix != "" {
		prefix += "/"
	}
	endpoint, region := cfg.Endpoint, cfg.Region
	if endpoint == "" {
		endpoint = awsEndpoint
	}
	if region == "" {
		region = defaultS3Region
	}
	to, err := url.Parse(endpoint)
	if err != nil || to.Host == "" {
		return nil, fmt.Errorf("open files %s: the endpoint is no URL", address)
	}
	lookup := minio.BucketLookupDNS
	if cfg.PathStyle {
		lookup = minio.BucketLookupPath
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 32,
		IdleConnTimeout:     30 * time.Second,
		DisableCompression:  true,
	}
	options := minio.Options{
		Creds: credentials.New(cfg.keys()), Secure: to.Scheme == "https", Region: region, BucketLookup: lookup,
		Transport: transport, MaxRetries: s3Attempts,
	}
	client, err := minio.NewCore(to.Host, &options)
	if err != nil {
		return nil, fmt.Errorf("open files %s: %w", address, err)
	}
	options.MaxRetries = 1
	sender, err := minio.NewCore(to.Host, &options)
	if err != nil {
		return nil, fmt.Errorf("open files %s: %w", address, err)
	}
	return &S3Files{client: *client, sender: *sender, closeIdle: transport.CloseIdleConnections, endpoint: endpoint,
		bucket: bucket, prefix: prefix}, nil
}

// errNoKeys means that no keys of the S3 server were given.
var errNoKeys = errors.New("there are no keys for the S3 server: set AWS_ACCESS_KEY_ID and " +
	"AWS_SECRET_ACCESS_KEY, or give --s3-access-key-file and --s3-secret-key-file")

// s3KeyAge is how long keys of files are used before they are read again.
const s3KeyAge = time.Minute

func (cfg S3) keys() credentials.Provider {
	id, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	switch {
	case cfg.AccessKeyFile != "" || cfg.SecretKeyFile != "":
		return &s3KeyFiles{S3: cfg}
	case id == "" && secret == "" && (cfg.Endpoint == "" || os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != ""):
		return s3Role{&credentials.IAM{Client: &http.Client{Timeout: 5 * time.Second}, Region: cfg.Region}}
	}
	return s3Keys{credentials.Value{AccessKeyID: id, SecretAccessKey: secret,
		SessionToken: os.Getenv("AWS_SESSION_TOKEN"), SignerType: credentials.SignatureV4}}
}

// s3Role is the role that AWS gives to the machine, the container or the pod.
type s3Role struct{ *credentials.IAM }

func (r s3Role) RetrieveWithCredContext(c *credentials.CredContext) (credentials.Value, error) {
	value, err := r.IAM.RetrieveWithCredContext(c)
	if err != nil {
		err = fmt.Errorf("%w; the role of this machine cannot be had either: %w", errNoKeys, err)
	}
	return value, err
}

// s3Keys are keys that stay.
type s3Keys struct{ credentials.Value }

func (k s3Keys) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	if k.AccessKeyID == "" || k.SecretAccessKey == "" {
		return credentials.Value{}, errNoKeys
	}
	return k.Value, nil
}

func (k s3Keys) Retrieve() (credentials.Value, error) { return k.RetrieveWithCredContext(nil) }
func (s3Keys) IsExpired() bool                        { return false }

// s3KeyFiles reads keys from files, which may be replaced at any time.
type s3KeyFiles struct {
	S3
	credentials.Expiry
}

func (k *s3KeyFiles) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	value := credentials.Value{SignerType: credentials.SignatureV4}
	for file, to := range map[string]*string{k.AccessKeyFile: &value.AccessKeyID, k.SecretKeyFile: &value.SecretAccessKey} {
		data, err := os.ReadFile(file)
		if err != nil {
			return credentials.Value{}, fmt.Errorf("keys of the S3 server: %w", err)
		}
		if *to = strings.TrimSpace(string(data)); *to == "" {
			return credentials.Value{}, fmt.Errorf("keys of the S3 server: %s is empty", file)
		}
	}
	k.SetExpiration(time.Now().Add(s3KeyAge), 0)
	return value, nil
}

func (k *s3KeyFiles) Retrieve() (credentials.Value, error) { return k.RetrieveWithCredContext(nil) }

// repeat sends a request until it succeeds, or its failure will not pass. Requests with a body are repeated here
// and not by the client: the client rewinds a body that the broken attempt may still be reading.
func (s *S3Files) repeat(ctx context.Context, send func() error) error {
	for attempt, pause := 1, s3Pause; ; attempt, pause = attempt+1, min(2*pause, time.Second) {
		err := send()
		if err == nil || attempt == s3Attempts || ctx.Err() != nil || !passing(err) {
			return err
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// passing reports whether a request may succeed when it is sent again.
func passing(err error) bool {
	var refused minio.ErrorResponse
	if !errors.As(err, &refused) {
		return !errors.Is(err, errNoKeys) && !errors.As(err, new(*fs.PathError))
	}
	switch refused.Code {
	case "SlowDown", "RequestTimeout", "Throttling", "ExpiredToken":
		return true
	}
	return refused.StatusCode >= http.StatusInternalServerError && refused.StatusCode != http.StatusNotImplemented &&
		refused.StatusCode != http.StatusInsufficientStorage || refused.StatusCode == http.StatusTooManyRequests
}

// classifyS3 wraps errors of an S3 server in their sentinel errors.
func classifyS3(err error) error {
	var refused minio.ErrorResponse
	if !errors.As(err, &refused) {
		if IsNoSpace(err) { // of a draft
			return classify(err)
		}
		return err // a missing file of keys is no missing file of the store
	}
	switch refused.Code {
	case minio.NoSuchKey, "NotFound":
		return wrapOnce(ErrNoFile, err)
	case minio.NoSuchBucket:
		return wrapOnce(ErrNoStore, err)
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientCapacity":
		return wrapOnce(ErrNoSpace, err)
	}
	if refused.StatusCode == http.StatusInsufficientStorage {
		return wrapOnce(ErrNoSpace, err)
	}
	return err
}

func wrapOnce(sentinel, err error) error {
	if errors.Is(err, sentinel) {
		return err
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}

// advise says in front of an error what to do about it.
func (s *S3Files) advise(err error) error {
	if err == nil || errors.Is(err, errNoKeys) || errors.Is(err, context.Canceled) {
		return err
	}
	var refused minio.ErrorResponse
	if !errors.As(err, &refused) {
		return s.adviseNetwork(err)
	}
	advice := ""
	switch refused.Code {
	case minio.NoSuchBucket:
		advice = fmt.Sprintf("the bucket %s is not at %s: create it, or correct --files, --s3-endpoint or "+
			"--s3-path-style", s.bucket, s.endpoint)
	case "InvalidAccessKeyId", "InvalidAccessKeyID", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken",
		"InvalidSecurity", "InvalidSecurityToken", "XAdminUserNotFound":
		advice = fmt.Sprintf("%s does not accept the access key and its secret: check AWS_ACCESS_KEY_ID and "+
			"AWS_SECRET_ACCESS_KEY, or the files of --s3-access-key-file and --s3-secret-key-file", s.endpoint)
	case "RequestTimeTooSkewed", "RequestExpired":
		advice = "this machine's clock differs too much from that of " + s.endpoint + ": let both set their clocks by NTP"
	case "AuthorizationHeaderMalformed", "InvalidRegion", "IllegalLocationConstraintException",
		"PermanentRedirect", "TemporaryRedirect", "Redirect":
		region := "REGION, and --s3-endpoint if it names a region"
		if refused.Region != "" {
			region = refused.Region
		}
		advice = fmt.Sprintf("the bucket %s is in another region: give --s3-region %s", s.bucket, region)
	case "PathStyleDomainForbidden", "SecondLevelDomainForbidden":
		advice = s.endpoint + " wants the bucket in the host name: remove --s3-path-style"
	case minio.NoSuchKey: // of a put
		advice = s.endpoint + " does not find the bucket in the address: add or remove --s3-path-style"
	case minio.AccessDenied, "AllAccessDisabled", "UnauthorizedAccess":
		advice = fmt.Sprintf("the access key may not use the bucket %s: allow s3:ListBucket and "+
			"s3:ListBucketMultipartUploads on it, and s3:GetObject, s3:PutObject, s3:DeleteObject and "+
			"s3:AbortMultipartUpload on %s/%s*", s.bucket, s.bucket, s.prefix)
	default:
		advice = fmt.Sprintf("%s refuses a request (%s)", s.endpoint, refused.Code)
	}
	return fmt.Errorf("%s: %w", advice, err)
}

// adviseNetwork says what to do about a server that does not answer as an S3 server.
func (s *S3Files) adviseNetwork(err error) error {
	var name *net.DNSError
	switch {
	case errors.As(err, &name):
		return fmt.Errorf("the name %s cannot be resolved: check --s3-endpoint and --s3-region; many servers want "+
			"--s3-path-style: %w", name.Name, err)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s speaks http, not https: correct --s3-endpoint: %w", s.endpoint, err)
	case errors.As(err, new(*net.OpError)), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no S3 server answers at %s: check --s3-endpoint and whether the server runs: %w",
			s.endpoint, err)
	}
	return err
}
