"""Django REST framework with its three paginators over sqlite.

apt-get install python3-djangorestframework; PORT=9105 /usr/bin/python3 start.py
  /page/?page=1&page_size=100      count, next, previous, results (next is an absolute URL)
  /offset/?limit=100&offset=0      the same envelope
  /cursor/?page_size=100           next, previous, results: no count
"""
import os, sys, tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import django
from django.conf import settings

PORT = os.environ.get("PORT", "9105")
DB = os.path.join(tempfile.mkdtemp(prefix="drf-"), "db.sqlite3")
settings.configure(
    DEBUG=False, SECRET_KEY="fixture", ALLOWED_HOSTS=["127.0.0.1", "localhost"], ROOT_URLCONF=__name__, USE_TZ=True,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DB}},
    INSTALLED_APPS=["rest_framework"], DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    REST_FRAMEWORK={"DEFAULT_AUTHENTICATION_CLASSES": [], "DEFAULT_PERMISSION_CLASSES": [], "UNAUTHENTICATED_USER": None,
                    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"]})
django.setup()
from django.db import connection, models
from django.urls import path
from rest_framework import generics, pagination, serializers
from rows import orders


class Order(models.Model):
    no = models.CharField(max_length=20)
    user = models.JSONField()
    amount = models.FloatField()
    big = models.BigIntegerField()  # a number here: 19 digits
    status = models.IntegerField()
    state = models.CharField(max_length=20)
    paid = models.BooleanField()
    created = models.DateTimeField()
    created_unix = models.BigIntegerField()
    note = models.TextField()
    tags = models.JSONField()

    class Meta:
        app_label = "orders"


class OrderSerializer(serializers.ModelSerializer):
    class Meta:
        model = Order
        fields = "__all__"


class Page(pagination.PageNumberPagination):
    page_size, page_size_query_param, max_page_size = 100, "page_size", 1000


class Offset(pagination.LimitOffsetPagination):
    default_limit, max_limit = 100, 1000


class Cursor(pagination.CursorPagination):
    page_size, page_size_query_param, max_page_size, ordering = 100, "page_size", 1000, "id"


def view(p):
    return generics.ListAPIView.as_view(queryset=Order.objects.order_by("id"), serializer_class=OrderSerializer, pagination_class=p)


urlpatterns = [path("page/", view(Page)), path("offset/", view(Offset)), path("cursor/", view(Cursor))]

if __name__ == "__main__":
    with connection.schema_editor() as s:
        s.create_model(Order)
    Order.objects.bulk_create([Order(**{**o, "big": int(o["big"])}) for o in orders()], batch_size=500)
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
    from django.core.wsgi import get_wsgi_application

    class Quiet(WSGIRequestHandler):
        def log_message(self, *args):
            pass

    class Queue(WSGIServer):
        request_queue_size = 64  # of 5, further connections wait for seconds

    print(f"http://127.0.0.1:{PORT}/page/", flush=True)
    make_server("127.0.0.1", int(PORT), get_wsgi_application(), server_class=Queue, handler_class=Quiet).serve_forever()
