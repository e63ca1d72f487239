"""Django's names, mapped from `Env`: no logic, no side effect, no name that nobody reads."""

from project.cors import cors_policy
from project.env import ROOT, current

_env = current()
_env.check()
_cors = cors_policy(_env)

# --- Site ---
DEBUG = _env.debug
SECRET_KEY = _env.secret_key
SECRET_KEY_FALLBACKS = list(_env.secret_key_fallbacks)
ALLOWED_HOSTS = list(_env.allowed_hosts)
ROOT_URLCONF = "project.urls"
# Every endpoint of ours answers with and without the slash; a redirect would lose a POST's body.
APPEND_SLASH = False

INSTALLED_APPS = [
    "apps.core",
    "apps.accounts",
    "apps.projects",
    "apps.pages",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "corsheaders",
    "asgi_health.adapters.django",  # its checks name what costs requests a thread
    "ninja",  # its documentation page takes scripts from here instead of from a CDN
]

MIDDLEWARE = [
    "project.middleware.note_request",
    "corsheaders.middleware.CorsMiddleware",  # so early that errors of the others carry the headers
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- Data ---
# As many connections as PostgreSQL can bear, not as many as threads.
_pool = {"min_size": 1, "max_size": _env.database_pool_size, "timeout": 10.0}
_is_pooled = not _env.database.embedded
DATABASES = {
    "default": {
        "ENGINE": _env.database.engine,
        "NAME": _env.database.name,
        "USER": _env.database.user,
        "PASSWORD": _env.database.password,
        "HOST": _env.database.host,
        "PORT": _env.database.port,
        "OPTIONS": {**_env.database.options, **({"pool": _pool} if _is_pooled else {})},
        "CONN_MAX_AGE": 0 if _is_pooled else 600,  # seconds; kept by the thread that is lent
        "CONN_HEALTH_CHECKS": True,
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Accounts ---
AUTH_USER_MODEL = "accounts.User"
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
    "django.contrib.auth.hashers.ScryptPasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "admin:login"

# --- Transport and browser ---
# No SECURE_PROXY_SSL_HEADER: anybody can send that header. The server believes it from the proxies
# in FORWARDED_ALLOW_IPS only, and tells Django the true scheme.
SECURE_SSL_REDIRECT = _env.https_only
SECURE_HSTS_SECONDS = _env.hsts_s * _env.https_only
SECURE_HSTS_INCLUDE_SUBDOMAINS = _env.https_only
SECURE_HSTS_PRELOAD = _env.https_only
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SESSION_COOKIE_SECURE = _env.https_only
CSRF_COOKIE_SECURE = _env.https_only
CSRF_TRUSTED_ORIGINS = list(_env.csrf_origins)
X_FRAME_OPTIONS = "DENY"

CORS_ALLOWED_ORIGINS = list(_cors.origins)
CORS_ALLOW_CREDENTIALS = _cors.allow_credentials
CORS_ALLOW_METHODS = list(_cors.allow_methods)
CORS_ALLOW_HEADERS = list(_cors.allow_headers)
CORS_EXPOSE_HEADERS = list(_cors.expose_headers)
CORS_PREFLIGHT_MAX_AGE = _cors.max_age_s

# --- Static files: served in front of Django, see project/static_files.py ---
STATIC_URL = "/static/"
STATIC_ROOT = ROOT / "staticfiles"
STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.AppDirectoriesFinder"]

# --- Language and time ---
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("ko", "한국어")]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "Asia/Seoul"

# --- Logs: set up by project/logs.py before Django is imported ---
LOGGING_CONFIG = None
