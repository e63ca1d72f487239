"""Projects in the admin."""

from django.contrib import admin

from apps.projects.models import Project

__all__ = ["ProjectAdmin"]


@admin.register(Project)
class ProjectAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # generic in the stubs only
    """Projects of everybody, found by name or owner."""

    list_display = ("name", "owner", "status", "progress", "start_date", "end_date", "updated_at")
    list_filter = ("status",)
    list_select_related = ("owner",)
    search_fields = ("name", "description", "owner__email", "owner__nickname")
    autocomplete_fields = ("owner",)
    readonly_fields = ("created_at", "updated_at")
    date_hierarchy = "start_date"
